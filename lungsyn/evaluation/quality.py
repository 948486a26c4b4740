"""Pictures of the quality control: where the measures of real and of synthetic cases lie, and what was rejected.

Read from files: the *reference* (ranges, and the train cases' measures), and *records*, one per made volume, with its
measures, its faults and whether it is in the set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.figure import Figure

from lungsyn.evaluation.figures import COLOURS, INK, QUIET, headline, jitter, save
from lungsyn.evaluation.pictures import choose, draw_contour, draw_slice
from lungsyn.settings.evaluation import Drawing
from lungsyn.settings.study import Study

ROWS = ("real train", "accepted", "rejected")
ROW_COLOURS = (COLOURS[0], COLOURS[2], COLOURS[1])
COLUMNS = 3  # of panels
REASON_LENGTH = 70  # characters of a line
NOT_JUDGED = "What is pasted is real: nothing was measured, nothing rejected."


@dataclass(frozen=True, eq=False)
class Judged:
    """What the quality control saw of a set; nothing of a pasted one. ``pictures``: the slices ``ct_0`` ...
    ``nodules_2`` of each rejected volume, by volume and attempt."""

    reference: Mapping = field(default_factory=lambda: {"values": {}})
    records: Sequence[Mapping] = ()
    pictures: Mapping[tuple[str, int], Mapping[str, np.ndarray]] = field(default_factory=dict)


def plot_quality(judged: Judged, set_name: str, study: Study, settings: Drawing, out: Path) -> None:
    """A panel per measure with the range marked, above ``settings.contact_cases`` rejected volumes, drawn at random.

    Of a pasted set there are no measures, and the picture says so.
    """
    reference, records, pictures = judged.reference, judged.records, judged.pictures
    names = [name for name, values in reference["values"].items() if values]
    chosen = choose(list(pictures), settings.contact_cases, study.seed)
    n_rows = max(-(-len(names) // COLUMNS), 1)
    heights = [1.5 * n_rows, *([2.5 * len(chosen)] if chosen else [])]

    def draw(figure: Figure) -> None:
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        panels = parts[0].subplots(n_rows, COLUMNS, squeeze=False).ravel()
        for panel in panels[len(names) :]:
            panel.set_axis_off()
        if not names:
            parts[0].text(0.5, 0.5, NOT_JUDGED, ha="center", fontsize=12.5, color=QUIET)
        for panel, name in zip(panels, names, strict=False):
            _measure_panel(panel, name, reference, records)
        if chosen:
            parts[1].suptitle(f"rejected: {len(chosen)} of {len(pictures)}, drawn at random", fontsize=12.5)
            faults = {(r["volume"], r["attempt"]): r["faults"] for r in records}
            for row, name in zip(parts[1].subfigures(len(chosen), 1, squeeze=False)[:, 0], chosen, strict=True):
                _rejected_row(
                    row, f"volume {name[0]}, attempt {name[1]}", faults[name], pictures[name], settings.window_hu
                )
        headline(figure, f"Quality control of set {set_name}", study.name)

    save(11, sum(heights) + 0.8, settings.dpi, out, draw)


def _measure_panel(panel, name: str, reference: Mapping, records: Sequence[Mapping]) -> None:
    """Three rows of dots: real train cases, accepted and rejected volumes; the range is the grey band."""
    made = [r for r in records if name in r["measures"]]
    rows = [
        list(reference["values"][name].values()),
        [r["measures"][name] for r in made if not r["faults"]],
        [r["measures"][name] for r in made if r["faults"]],
    ]
    low, high = (reference["measures"][name][end] for end in ("low", "high"))
    if low is not None:
        panel.axvspan(low, high, color="#e9e9e4", lw=0)
    # One volume far out must not squeeze all others into a line: the view is three times the range, and what lies
    # beyond is an arrow at its end.
    every, left, right = np.concatenate(rows), -np.inf, np.inf
    if low is not None and high > low and len(every):
        left, right = max(every.min(), low - (high - low)), min(every.max(), high + (high - low))
        panel.set_xlim(left - 0.04 * (right - left), right + 0.04 * (right - left))
    for place, (row, colour) in enumerate(zip(rows, ROW_COLOURS, strict=True)):
        values, heights = np.sort(np.array(row, float)), -place + jitter(len(row), 0.6)
        for marker, there in (("<", values < left), (">", values > right), ("o", (left <= values) & (values <= right))):
            shown = values[there].clip(left, right)
            panel.scatter(shown, heights[there], s=11, marker=marker, color=colour, alpha=0.6, lw=0)
    panel.set_yticks([-k for k in range(len(ROWS))], [f"{r} ({len(v)})" for r, v in zip(ROWS, rows, strict=True)])
    panel.tick_params(labelsize=8)
    panel.set_ylim(-2.6, 0.6)
    panel.set_title(name + ("" if low is not None else " (not judged)"), fontsize=9.5, color=INK, loc="left")


def _rejected_row(figure, name: str, faults: Sequence[Mapping], slices: Mapping[str, np.ndarray], window_hu) -> None:
    """Three planes of one rejected volume, and why."""
    reasons = [fill(fault["reason"], REASON_LENGTH) for fault in faults]
    shown = "\n".join(reasons[:3] + ([f"and {len(reasons) - 3} more"] if len(reasons) > 3 else []))
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.6])
    for across, axis in zip((2, 1, 0), axes, strict=False):
        draw_slice(axis, np.expand_dims(slices[f"ct_{across}"], across), across, 0, (1, 1, 1), window_hu)
        draw_contour(axis, np.expand_dims(slices[f"nodules_{across}"], across), across, 0, ROW_COLOURS[2], 1.2)
    axes[3].set_axis_off()
    axes[3].text(0, 0.95, f"{name}\n{shown}", fontsize=8, va="top", color=QUIET, transform=axes[3].transAxes)
