"""The closest pairs, side by side: what the numbers call near, for the eye to judge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lungsyn.anatomy.shapes import are_cut_outs
from lungsyn.audit.memorisation import aligned, turn_of, turned
from lungsyn.audit.outlines import OUTLINE, read_outline
from lungsyn.audit.patches import Cutter, Place, cut
from lungsyn.evaluation.figures import COLOURS, headline, save
from lungsyn.evaluation.pictures import draw_slice
from lungsyn.settings.evaluation import Drawing
from lungsyn.volume.files import open_case

OUTLINES = 4  # of each group
PAIRS = {"nodule": 4, "volume": 2}  # of each group


@dataclass(frozen=True, eq=False)
class Cubes:
    """Where the compared cubes lie and how they were cut, by kind (places by name too); shifts were up to
    ``max_shift`` voxels."""

    places: Mapping[str, Mapping[str, Place]]
    cutters: Mapping[str, Cutter]
    max_shift: int


def plot_nearest(
    rows: Sequence[Mapping], cubes: Cubes, set_name: str, study_name: str, settings: Drawing, out: Path
) -> None:
    """The synthetic cubes with the highest correlation to a train cube, each beside it and beside the nearest held-out
    one; and for comparison the held-out cubes that are closest to a train cube, for which it is chance.

    ``rows``: of `probes.probe`. Neighbours are shifted and turned as they were found; an axial slice through the middle
    of each cube's core.
    """
    chosen = {
        group: [row for kind, count in PAIRS.items() for row in _closest(rows, kind, group)[:count]]
        for group in ("synthetic", "held-out")
    }
    n_rows = max(len(found) for found in chosen.values())

    def draw(figure: Figure) -> None:
        halves = figure.subfigures(1, 2, wspace=0.03, width_ratios=(3, 2))
        columns = [["synthetic", "nearest train", "nearest held-out"], ["held-out", "nearest train"]]
        for half, (group, found), titles, colour in zip(
            halves, chosen.items(), columns, (COLOURS[4], COLOURS[5]), strict=True
        ):
            totals = " and ".join(f"{len(_closest(rows, kind, group))} {kind}s" for kind in PAIRS)
            half.suptitle(f"{group}: closest of {totals}", fontsize=10.5, fontweight="bold", color=colour)
            axes = half.subplots(n_rows, len(titles), squeeze=False)
            for axis in axes[len(found) :].ravel():
                axis.set_axis_off()
            for line, row in zip(axes, found, strict=False):
                _pair(line, row, cubes, settings.window_hu)
            for axis, title in zip(axes[0], titles, strict=True):
                axis.set_title(f"{title}\n{axis.get_title()}", fontsize=10)
        headline(figure, f"Nearest real neighbours of set “{set_name}”", study_name)

    save(11, 2.15 * n_rows + 1.2, settings.dpi, out, draw)


def plot_outlines(
    rows: Sequence[Mapping], folders: Mapping[str, Path], set_name: str, study_name: str, settings: Drawing, out: Path
) -> None:
    """The synthetic outlines whose nearest train one stands out most, laid over it in three planes; beside them the
    held-out ones for which that is chance. ``rows``: of `outlines.probe_outlines`; ``folders``: of all cases."""
    groups = {group: _closest(rows, OUTLINE, group) for group in ("synthetic", "held-out")}
    known = [folders[row["case"]] for row in rows if (row["kind"], row["group"]) == (OUTLINE, "train")]
    cut_out = are_cut_outs(open_case(folder) for folder in known)

    def draw(figure: Figure) -> None:
        for half, (group, found), colour in zip(
            figure.subfigures(1, 2, wspace=0.03), groups.items(), (COLOURS[4], COLOURS[5]), strict=True
        ):
            half.suptitle(f"{group} (colour) over nearest train (black)", fontsize=10.5, color=colour)
            for line, row in zip(half.subplots(OUTLINES, 3, squeeze=False), found, strict=False):
                _overlay(line, row, folders, cut_out, colour)
        headline(figure, f"Nearest outlines of set “{set_name}”", study_name)

    save(11, 2.0 * OUTLINES + 1.2, settings.dpi, out, draw)


def _overlay(axes, row: Mapping, folders: Mapping[str, Path], cut_out: bool, colour: str) -> None:
    """Body and lungs of a probe, turned as it fits, and of its nearest, in the middle of each plane."""
    probe, nearest = (read_outline(open_case(folders[row[key]]), cut_out)[0] for key in ("case", "nearest"))
    probe = turned(probe, turn_of(row["order"], row["mirror"]))
    for axis, across in zip(axes, (2, 1, 0), strict=True):
        for outline, line in ((nearest, "black"), (probe, colour)):
            axis.contour(np.take(outline, len(outline) // 2, across).T, (0.5, 1.5), colors=line, linewidths=1.0)
        axis.set(aspect="equal", xticks=[], yticks=[])
    axes[0].set_ylabel(f"likeness {float(row['correlation']):.2f}", fontsize=9)


def _closest(rows: Sequence[Mapping], kind: str, group: str) -> list[Mapping]:
    """The group's rows, the highest correlation first."""
    found = [row for row in rows if row["kind"] == kind and row["group"] == group]
    return sorted(found, key=lambda row: -float(row["correlation"]))


def _pair(axes, row: Mapping, cubes: Cubes, window_hu) -> None:
    """A probe's core and the windows of its neighbours, which match it voxel by voxel."""
    names = [row["place"], row["nearest"], row["held_out_nearest"]][: len(axes)]
    places, cutter = cubes.places[row["kind"]], cubes.cutters[row["kind"]]
    values, _ = cut([places[name] for name in names], cutter)
    found = [[row[f"{of}{what}"] for what in ("shift", "order", "mirror")] for of in ("", "held_out_")]
    moves = [("0 0 0", "xyz", ""), *found]
    words = [row["kind"], f"r = {float(row['correlation']):.2f}", ""]
    if row["held_out_correlation"]:
        words[2] = f"r = {float(row['held_out_correlation']):.2f}"
    for axis, cube, (shift, order, mirror), word in zip(axes, values, moves, words, strict=False):
        core = aligned(cube, np.array(shift.split(), dtype=int), turn_of(order, mirror), cubes.max_shift)
        draw_slice(axis, core, 2, core.shape[2] // 2, (1.0, 1.0, 1.0), window_hu)
        axis.set_title(word, fontsize=9, pad=3)
