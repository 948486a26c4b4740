"""How real a synthetic set is, at a glance: each measure beside its real-vs-real floor. Results in, PNG out."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lungsyn.evaluation.figures import COLOURS, NULL_COLOUR, QUIET, headline, save

SYNTHETIC, TRAIN = COLOURS[1], COLOURS[0]
SHOWN = {"synthetic": (SYNTHETIC, "o", -0.13), "floor": (NULL_COLOUR, "D", 0.13)}
EXPLANATION = (
    "All distances are to the train cases. Grey, the floor: held-out real cases, equally many: what a perfect generator"
    " would reach.  Lines: 95 %, bootstrap over cases, if there are enough.\n≈ floor: the interval of the difference"
    " holds 0.  > floor: unlike real CT.  < floor: closer to the train cases than new patients are, so look at"
    " memorisation."
)


def plot_fidelity(found: Mapping, study_name: str, dpi: int, out: Path) -> None:
    """``found``: the result of `floor.audit` with ``set`` and ``size`` (percent of the train patients)."""

    def draw(figure: Figure) -> None:
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
        above, below = figure.subplots(2, 3)
        _distances(above[0], found["views"], "frechet", "Fréchet distance, features")
        _distances(above[1], found["views"], "kid", "KID, unbiased")
        _spectra(above[2], found["spectrum"])
        for axis, tissue in zip(below, found["tissues"], strict=True):
            _histograms(axis, tissue, found["tissues"][tissue])
        lines = [
            Line2D([], [], color=SYNTHETIC, marker="o", lw=2, label=f"synthetic, {found['cases']['synthetic']} cases"),
            Line2D([], [], color=NULL_COLOUR, marker="D", lw=2, label=f"held-out real, {found['cases']['held_out']}"),
            Line2D([], [], color=TRAIN, lw=2, label=f"train, {found['cases']['train']}: the reference"),
        ]
        legend = figure.legend(handles=lines, loc="outside lower center", ncols=3, frameon=False, fontsize=10.5,
                               title=EXPLANATION, title_fontsize=9)  # fmt: skip
        legend.get_title().set(color=QUIET, multialignment="center")
        headline(figure, f"How real is “{found['set']}” ({found['size']} % of the train patients)?", study_name)

    save(12, 7.6, dpi, out, draw)


def _distances(axis, views: Mapping, measure: str, title: str) -> None:
    """A line per view: the synthetic set and, in grey, its floor."""
    top = 0.0
    for row, view in enumerate(views):
        if views[view] is None:
            axis.annotate("too few cases", (0.02, row), xycoords=("axes fraction", "data"), va="center", color=QUIET)
            continue
        for name, (colour, marker, offset) in SHOWN.items():
            estimate = views[view][measure][name]
            top = max(top, estimate["value"], estimate["high"] or 0.0)
            if estimate["low"] is not None:
                axis.plot([estimate["low"], estimate["high"]], [row + offset] * 2, color=colour, lw=2.2)
            axis.plot(estimate["value"], row + offset, marker, color=colour, ms=7, mec="white", mew=0.8)
        _note_ratio(axis, row, views[view][measure], measure == "frechet")
    axis.axvline(0, color="#bbbbbb", lw=0.8, zorder=0)
    axis.set(title=title, yticks=range(len(views)), yticklabels=list(views))
    axis.set(ylim=(len(views) - 0.5, -0.5), xlim=(None, top * 1.4 if top > 0 else None))
    axis.grid(axis="x", color="#ececec", lw=0.7)


def _note_ratio(axis, row: int, compared: Mapping, with_ratio: bool) -> None:
    """At the right: how many floors away (KID's floor is about zero: none), and whether the difference is shown."""
    low, high = compared["difference"]["low"], compared["difference"]["high"]
    shown = "" if low is None else "≈ floor" if low <= 0 <= high else "> floor" if low > 0 else "< floor"
    text = f"×{compared['ratio']:.2g}" if with_ratio and compared["ratio"] is not None else ""
    axis.annotate(
        f"{text} {shown}".strip(), (0.995, row), xycoords=("axes fraction", "data"), ha="right", va="center",
        fontsize=9.5, fontweight="normal" if shown == "≈ floor" else "bold",
    )  # fmt: skip


def _spectra(axis, spectrum: Mapping | None) -> None:
    axis.set(title="Noise of soft tissue", xlabel="spatial frequency, 1/mm", ylabel="noise power, HU² mm²")
    if spectrum is None:
        axis.annotate("too little soft tissue", (0.5, 0.5), xycoords="axes fraction", ha="center", color=QUIET)
        return
    for name, colour in (("held_out", NULL_COLOUR), ("train", TRAIN), ("synthetic", SYNTHETIC)):
        axis.plot(spectrum["frequency_per_mm"], spectrum["power"][name], color=colour, lw=2)
    axis.set_yscale("log")
    axis.grid(which="both", color="#ececec", lw=0.7)
    _say_distance(axis, spectrum["distance_db"], "dB", "left", 0.06)


def _histograms(axis, tissue: str, found: Mapping | None) -> None:
    axis.set(title=f"HU of {tissue}", xlabel="HU", yticks=[])
    axis.spines["left"].set_visible(False)
    if found is None:
        axis.annotate("too few cases", (0.5, 0.5), xycoords="axes fraction", ha="center", color=QUIET)
        return
    hu = found["first_hu"] + found["bin_hu"] * (np.arange(len(found["histograms"]["train"])) + 0.5)
    axis.fill_between(hu, found["histograms"]["train"], color=TRAIN, alpha=0.18, lw=0)
    for name, colour in (("held_out", NULL_COLOUR), ("train", TRAIN), ("synthetic", SYNTHETIC)):
        axis.plot(hu, found["histograms"][name], color=colour, lw=1.6)
    total = np.cumsum(np.sum(list(found["histograms"].values()), axis=0))
    first, last = np.searchsorted(total, [0.003 * total[-1], 0.997 * total[-1]])
    axis.set(
        xlim=(hu[first] - 40, hu[min(last, len(hu) - 1)] + 40),
        ylim=(0, 1.15 * max(map(max, found["histograms"].values()))),
    )
    peak, (left, right) = hu[np.argmax(found["histograms"]["train"])], axis.get_xlim()
    side = "right" if peak < (left + right) / 2 else "left"
    _say_distance(axis, found["distance_hu"], "HU", side, 0.9)


def _say_distance(axis, compared: Mapping, unit: str, side: str, height: float) -> None:
    """Distance to train of both, in words, in a corner."""
    x = 0.98 if side == "right" else 0.03
    for line, (name, words) in enumerate((("synthetic", "synthetic"), ("floor", "held-out"))):
        axis.annotate(
            f"{words} {compared[name]['value']:.3g} {unit}", (x, height + 0.08 * (0.5 - line)),
            xycoords="axes fraction", ha=side, fontsize=9.5, color=SHOWN[name][0], fontweight="bold",
        )  # fmt: skip
