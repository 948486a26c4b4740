"""Pictures of CT with contours: arrays in, PNG out.

Arrays are ``[x y z]`` in RAS+, drawn as a radiologist reads them: the patient's right on the left of an axial
or coronal slice, the front on top of an axial and on the left of a sagittal one, the head up. So every plane
is its two axes in order, the first mirrored, the second upwards.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lungsyn.evaluation.figures import COLOURS, headline, save
from lungsyn.evaluation.scores import nodule_mask
from lungsyn.random import stream
from lungsyn.settings.evaluation import Drawing
from lungsyn.volume.files import Case
from lungsyn.volume.space import PLANES, bounding_box

TRUTH_COLOUR = "#F0E442"
ARM_COLOURS = ("#56B4E9", "#FF8A3D")  # lighter than on white: these lie on black
MOST_TURNED = 6  # nodules in a row of thumbnails


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
    look = {"color": "white", "path_effects": [withStroke(linewidth=5, foreground="black")]}  # to be seen on bone
    axis.plot([start, start + length_mm / spacing_mm], [height] * 2, lw=3, solid_capstyle="butt", **look)
    axis.text(start, height + 0.6, f"{length_mm:g} mm", fontsize=9, ha="right", va="bottom", **look)


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


@dataclass(frozen=True, eq=False)
class Drawn:
    """A case to draw: ``{arm: [prediction of each replicate]}`` (percent ``[x y z]``), words beside it."""

    case: Case
    predictions: Mapping[str, Sequence[np.ndarray]]
    words: str


def plot_cases(
    drawn: Sequence[Drawn], dice: Sequence[Mapping[str, float]], study_name: str, settings: Drawing, out: Path
) -> None:
    """A row per case, a block of three planes per arm: the largest nodule, its truth and every replicate's contour.

    ``dice``: each arm's mean Dice on each case. A case without nodules is drawn through its middle.
    """
    arms = list(drawn[0].predictions)

    def draw(figure: Figure) -> None:
        widths = [1, 1, 1, *[0.1, 1, 1, 1] * (len(arms) - 1)]  # a gap between the blocks
        axes = figure.subplots(len(drawn), len(widths), squeeze=False, width_ratios=widths)
        for gap in axes[:, 3::4].ravel():
            gap.set_axis_off()
        for row, item, values in zip(axes, drawn, dice, strict=True):
            for k, arm in enumerate(arms):
                _planes(row[4 * k : 4 * k + 3], item, arm, ARM_COLOURS[k % 2], settings.window_hu)
                row[4 * k + 1].set_title(
                    f"{arm}:  Dice {values[arm]:.2f}{_empty(item.predictions[arm])}", fontsize=10.5
                )
            row[0].set_ylabel(item.words, fontsize=10.5)
        for axis, plane in zip(np.delete(axes[-1], np.s_[3::4]), list(PLANES) * len(arms), strict=True):
            axis.set_xlabel(plane, fontsize=9.5)
        _legend(figure, [f"{arm}, {len(drawn[0].predictions[arm])} replicates" for arm in arms])
        headline(figure, f"Test cases, chosen by rule: from “{arms[0]}” to “{arms[-1]}”", study_name)

    save(1 + 2.1 * 3 * len(arms), 2.35 * len(drawn) + 1.0, settings.dpi, out, draw)


def _planes(axes, item: Drawn, arm: str, colour: str, window_hu) -> None:
    case, spacing_mm = item.case, item.case.space.spacing_mm
    nodule = largest_nodule(case.nodules)
    focus = np.ones(case.ct.shape, dtype=bool) if nodule is None else nodule
    box = crop_around(focus, spacing_mm, margin_mm=10.0, least_mm=45.0)
    slices = widest_slices(focus[box])
    for axis, across in zip(axes, PLANES.values(), strict=True):
        draw_slice(axis, case.ct[box], across, slices[across], spacing_mm, window_hu)
        draw_contour(axis, case.nodules[box] != 0, across, slices[across], TRUTH_COLOUR, 2.6)
        for percent in item.predictions[arm]:
            draw_contour(axis, nodule_mask(percent[box]), across, slices[across], colour, 1.3)
    draw_scale(axes[0], spacing_mm[0])


def _empty(predictions: Sequence[np.ndarray]) -> str:
    """How many contours are missing: a replicate that found nothing in the case has none."""
    empty = sum(not nodule_mask(percent).any() for percent in predictions)
    return f"  ({empty} of {len(predictions)} found nothing)" if empty else ""


def _legend(figure: Figure, names: Sequence[str]) -> None:
    lines = [Line2D([], [], color=TRUTH_COLOUR, lw=2.6)]
    lines += [Line2D([], [], color=ARM_COLOURS[k % 2], lw=1.6) for k in range(len(names))]
    figure.legend(lines, ["truth", *names], loc="outside lower center", ncols=len(lines), labelcolor="white",
                  facecolor="black", framealpha=1, fontsize=10.5)  # fmt: skip


def plot_turned(
    gained: Sequence[tuple[Drawn, int]], lost: Sequence[tuple[Drawn, int]], totals: tuple[int, int],
    study_name: str, settings: Drawing, out: Path,
) -> None:  # fmt: skip
    """Nodules that only one of ``settings.case_arms`` found, a thumbnail each: by the second only, by the first only.

    Each is a case and the index of the nodule; ``totals``: how many there are of either kind, drawn or not.
    """
    arms = settings.case_arms
    halves = [
        (f"found with “{arms[1]}”, missed with “{arms[0]}”", gained, totals[0]),
        (f"found with “{arms[0]}”, missed with “{arms[1]}”", lost, totals[1]),
    ]
    columns = max(len(gained), len(lost), 3)
    heights = [2.5 if nodules else 0.6 for _, nodules, _ in halves]

    def draw(figure: Figure) -> None:
        parts = figure.subfigures(2, 1, height_ratios=heights)
        for half, (words, nodules, total) in zip(parts, halves, strict=True):
            half.suptitle(f"{words}:  {total}" + (f", drawn: {len(nodules)}" if total > len(nodules) else ""),
                          x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)  # fmt: skip
            axes = half.subplots(1, columns, squeeze=False)[0]
            for axis in axes[len(nodules) :]:
                axis.set_axis_off()
            for axis, (item, index) in zip(axes, nodules, strict=False):
                _thumbnail(axis, item, index, arms, settings.window_hu)
        if gained or lost:
            _legend(figure, [f"{arm}, each replicate" for arm in arms])
        headline(figure, "Nodules that only one of two arms finds (majority of the replicates)", study_name)

    save(max(2.0 * columns, 11), sum(heights) + 0.9, settings.dpi, out, draw)


def _thumbnail(axis, item: Drawn, index: int, arms: tuple[str, str], window_hu) -> None:
    """The axial slice that holds most of the nodule, 30 mm or more of it."""
    case, across = item.case, PLANES["axial"]
    nodule = np.asarray(case.nodules) == index
    box = crop_around(nodule, case.space.spacing_mm, margin_mm=8.0, least_mm=30.0)
    at = widest_slices(nodule[box])[across]
    draw_slice(axis, case.ct[box], across, at, case.space.spacing_mm, window_hu)
    draw_contour(axis, nodule[box], across, at, TRUTH_COLOUR, 2.4)
    for colour, arm in zip(ARM_COLOURS, arms, strict=True):
        for percent in item.predictions[arm]:
            draw_contour(axis, nodule_mask(percent[box]), across, at, colour, 1.3)
    axis.set_title(item.words, fontsize=9)


def choose(names: Sequence[str], count: int, seed: int) -> list[str]:
    """``count`` of the names (or all), drawn by the seed from their sorted list: nobody picks."""
    ordered = sorted(names)
    drawn = stream(seed, "shown cases").permutation(len(ordered))[:count]
    return [ordered[k] for k in drawn]


def plot_contact_sheet(real: Mapping[str, Case], synthetic: Mapping[str, Case], seed: int, study_name: str,
                       settings: Drawing, out: Path) -> None:  # fmt: skip
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
                contact_row(row, cases[name], settings.window_hu, colour)
                row[0].set_title(name, fontsize=8.5, loc="left", pad=3)
        headline(figure, "What the segmenters learn from", study_name)

    save(11, 1.75 * n_rows + 1.0, settings.dpi, out, draw)


def contact_row(axes, case: Case, window_hu, colour: str) -> None:
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
