"""Pictures of CT with contours: arrays in, PNG out.

Arrays are ``[x y z]`` in RAS+, drawn as a radiologist reads them: the patient's right on the left of an axial
or coronal slice, the front on top of an axial and on the left of a sagittal one, the head up. So every plane
is its two axes in order, the first mirrored, the second upwards.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lungsyn.config import Figures
from lungsyn.evaluation.figures import COLOURS, headline, save
from lungsyn.volume.files import Case
from lungsyn.volume.space import bounding_box

TRUTH_COLOUR = "#F0E442"
ARM_COLOURS = ("#56B4E9", "#FF8A3D")  # lighter than on white: these lie on black
PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}  # the axis across


def draw_slice(axis, volume: np.ndarray, across: int, index: int, spacing_mm, window_hu) -> None:
    """One slice of ``volume`` (HU) in grey; contours added by `draw_contour` fall on it."""
    first, second = (k for k in range(3) if k != across)
    low, high = window_hu
    axis.imshow(
        np.take(volume, index, across).T, cmap="gray", vmin=low, vmax=high, origin="lower",
        interpolation="auto", aspect=spacing_mm[second] / spacing_mm[first],
    )  # fmt: skip
    axis.invert_xaxis()
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def draw_contour(axis, mask: np.ndarray, across: int, index: int, colour: str, width: float) -> None:
    """The mask's outline in one slice; nothing where the slice has none of it."""
    section = np.take(mask, index, across).T
    if section.any() and not section.all():
        axis.contour(section.astype(float), levels=[0.5], colors=[colour], linewidths=[width])


def draw_scale(axis, spacing_mm: float, length_mm: float = 10.0) -> None:
    """A bar of ``length_mm`` in the lower right corner (the axis is mirrored: that is its low end)."""
    start, height = 1.0, 1.0
    axis.plot([start, start + length_mm / spacing_mm], [height] * 2, color="white", lw=3, solid_capstyle="butt")
    axis.text(start, height + 0.6, f"{length_mm:g} mm", color="white", fontsize=9, ha="right", va="bottom")


def largest_nodule(nodules: np.ndarray) -> np.ndarray | None:
    """The mask of the nodule with most voxels in an index volume; None where there is none."""
    sizes = np.bincount(np.asarray(nodules).ravel())
    return nodules == 1 + int(np.argmax(sizes[1:])) if sizes[1:].any() else None


def widest_slices(mask: np.ndarray) -> list[int]:
    """For each axis, the slice across it that holds most of the mask."""
    return [int(np.argmax(np.count_nonzero(mask, axis=tuple(k for k in range(3) if k != axis)))) for axis in range(3)]


def crop_around(mask: np.ndarray, spacing_mm, margin_mm: float, least_mm: float) -> tuple[slice, slice, slice]:
    """A cube around the mask with ``margin_mm``, at least ``least_mm`` wide, cut where the volume ends."""
    start, stop = bounding_box(mask)
    spacing_mm = np.asarray(spacing_mm)
    half_mm = max(((stop - start) * spacing_mm).max() / 2 + margin_mm, least_mm / 2)
    half = np.ceil(half_mm / spacing_mm).astype(int)
    centre = (start + stop) // 2
    low, high = np.maximum(centre - half, 0), np.minimum(centre + half, mask.shape)
    return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))


def plot_case(case: Case, predictions: Mapping[str, Sequence[np.ndarray]], dice: Mapping[str, float],
              study_name: str, words: str, settings: Figures, out: Path) -> None:  # fmt: skip
    """One case, a row per arm: three planes through its largest nodule, truth and every replicate's contour.

    ``predictions``: ``{arm: [mask of each replicate]}``; ``dice``: each arm's mean Dice on the case;
    ``words``: its name and the rule that chose it. A case without nodules is drawn through its middle.
    """
    nodule = largest_nodule(case.nodules)
    spacing_mm = case.space.spacing_mm
    focus = np.ones(case.ct.shape, dtype=bool) if nodule is None else nodule
    box = crop_around(focus, spacing_mm, margin_mm=10.0, least_mm=45.0)
    ct, truth = np.asarray(case.ct[box]), np.asarray(case.nodules[box]) != 0
    slices = widest_slices(focus[box])

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(predictions), 3, squeeze=False)
        for row, (arm, masks) in enumerate(predictions.items()):
            for column, (plane, across) in enumerate(PLANES.items()):
                axis = axes[row, column]
                draw_slice(axis, ct, across, slices[across], spacing_mm, settings.window_hu)
                draw_contour(axis, truth, across, slices[across], TRUTH_COLOUR, 2.6)
                for mask in masks:
                    draw_contour(axis, np.asarray(mask[box]) != 0, across, slices[across], ARM_COLOURS[row % 2], 1.3)
                if row == 0:
                    axis.set_title(plane, fontsize=11)
                    draw_scale(axis, spacing_mm[1 if across == 0 else 0])
            axes[row, 0].set_ylabel(f"{arm}\nDice {dice[arm]:.2f}", fontsize=12)
        names = [(TRUTH_COLOUR, 2.6, "truth"), *[
            (ARM_COLOURS[row % 2], 1.3, f"{arm}: {_replicates(masks)}")
            for row, (arm, masks) in enumerate(predictions.items())
        ]]  # fmt: skip
        lines = [Line2D([], [], color=colour, lw=width) for colour, width, _ in names]
        figure.legend(lines, [name for _, _, name in names], loc="outside lower center", ncols=len(names),
                      labelcolor="white", facecolor="black", framealpha=1, fontsize=10.5)  # fmt: skip
        headline(figure, words, study_name)

    save(10, 3.35 * len(predictions) + 1.0, settings.dpi, out, draw)


def _replicates(masks: Sequence[np.ndarray]) -> str:
    """How many contours to expect: a replicate that found nothing in the case has none."""
    empty = sum(not np.any(mask) for mask in masks)
    return f"{len(masks)} replicates" + (f", {empty} found nothing" if empty else "")


def choose(names: Sequence[str], count: int, seed: int) -> list[str]:
    """``count`` of the names (or all), drawn by the seed from their sorted list: nobody picks."""
    ordered = sorted(names)
    drawn = np.random.default_rng(seed).permutation(len(ordered))[:count]
    return [ordered[k] for k in drawn]


def plot_contact_sheet(real: Mapping[str, Case], synthetic: Mapping[str, Case], seed: int, study_name: str,
                       settings: Figures, out: Path) -> None:  # fmt: skip
    """Random real cases beside random synthetic ones: two planes through the largest nodule, and a close-up.

    The cases, by name, are all there are; ``settings.contact_cases`` of each are drawn by ``seed``.
    """
    columns = [
        (title, cases, choose(list(cases), settings.contact_cases, seed), colour)
        for title, cases, colour in (("real", real, COLOURS[5]), ("synthetic", synthetic, COLOURS[4]))
    ]
    n_rows = max(len(chosen) for _, _, chosen, _ in columns)

    def draw(figure: Figure) -> None:
        halves = figure.subfigures(1, 2, wspace=0.02)
        for half, (title, cases, chosen, colour) in zip(halves, columns, strict=True):
            half.suptitle(f"{title}: {len(chosen)} of {len(cases)}, drawn at random", fontsize=12.5, fontweight="bold")
            axes = half.subplots(n_rows, 3, squeeze=False)
            for axis in axes[len(chosen) :].ravel():
                axis.set_axis_off()
            for row, name in zip(axes, chosen, strict=False):
                _contact_row(row, cases[name], settings.window_hu, colour)
                row[0].set_title(name, fontsize=8.5, loc="left", pad=3)
        headline(figure, "What the segmenters learn from", study_name)

    save(11, 1.75 * n_rows + 1.0, settings.dpi, out, draw)


def _contact_row(axes, case: Case, window_hu, colour: str) -> None:
    """Axial, coronal, and an axial close-up of 40 mm or more; the outlines are those of the nodule mask."""
    nodule = largest_nodule(case.nodules)
    spacing_mm = case.space.spacing_mm
    focus = np.ones(case.ct.shape, dtype=bool) if nodule is None else nodule
    slices = widest_slices(focus)
    for axis, plane in zip(axes, ("axial", "coronal"), strict=False):
        across = PLANES[plane]
        draw_slice(axis, case.ct, across, slices[across], spacing_mm, window_hu)
        draw_contour(axis, case.nodules != 0, across, slices[across], colour, 1.2)
    box = crop_around(focus, spacing_mm, margin_mm=8.0, least_mm=40.0)
    index = slices[2] - box[2].start
    draw_slice(axes[2], case.ct[box], 2, index, spacing_mm, window_hu)
    draw_contour(axes[2], case.nodules[box] != 0, 2, index, colour, 1.6)
