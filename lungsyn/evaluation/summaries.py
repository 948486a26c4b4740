"""Figures of a whole study: the ladder of arms, the learning curves over training-set size, and the FROC curves.

Tables in, PNG out. Numbers and intervals are those of the tables, so figure and table cannot disagree. All show
the test group and nothing else, and every arm has the colour that it has in the per-case figure.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from lungsyn.evaluation.answer import differs
from lungsyn.evaluation.comparison import ends_text, signed
from lungsyn.evaluation.figures import INK, NULL_COLOUR, QUIET, Frame, headline, reach_of_seeds, save
from lungsyn.evaluation.froc import MEAN, RATES
from lungsyn.evaluation.groups import ENSEMBLE, TEST
from lungsyn.evaluation.paired import IF_EVEN

DIFFERENCE = ("mean_difference", "trainings_low", "trainings_high")
Patients = Mapping[int, int]  # training-set size in percent -> number of patients


def plot_ladder(comparison: Sequence[Mapping], n_train: Patients, confidence: float, frame: Frame, out: Path) -> None:
    """A rung per arm, a panel per training-set size: mean difference to the benchmark arm, interval, mean Dice.

    ``comparison``: rows of ``comparison/{segmenter}.tsv``. A filled diamond is a difference that can be claimed
    (`answer.differs`); a hollow one is not. The grey band is how far other seeds alone move the mean.
    """
    rows = {(row["size"], row["arm"]): row for row in comparison if row["group"] == TEST}
    arms, benchmark_arm = frame.in_order({arm: None for _, arm in rows}), frame.benchmark_arm
    sizes, colours = sorted({size for size, _ in rows}), frame.colours(arms)

    def draw(figure: Figure) -> None:
        panels = figure.subplots(1, len(sizes), sharex=True, sharey=True, squeeze=False)[0]
        for panel, size in zip(panels, sizes, strict=True):
            present = {arm: rows[size, arm] for arm in arms if (size, arm) in rows}
            _ladder_panel(panel, present, arms, colours, confidence)
            panel.set_title(size_words(size, n_train), fontsize=11.5, fontweight="bold", loc="left", pad=22)
        panels[0].set_yticks(range(len(arms)), arms, fontsize=11)
        panels[0].set_ylim(len(arms) - 0.4, -0.6)
        n = next(iter(rows.values()))
        figure.supxlabel(
            f"worse  ←   mean Dice of the {n['n_cases']} test cases, minus that of “{benchmark_arm}”   →  better\n\n",
            fontsize=11,
        )
        figure.text(0.5, 0.005, _ladder_key(confidence), ha="center", va="bottom", fontsize=9.5, color=QUIET)
        headline(figure, "Which training set is better?", frame.study_name)

    save(max(9, 2.6 + 4.2 * len(sizes)), 2.3 + 0.52 * len(arms), frame.dpi, out, draw)


def _ladder_panel(panel, rows: Mapping, arms: list, colours: dict, confidence: float) -> None:
    panel.grid(axis="x", color="#e4e4e4", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.axvline(0, color=INK, linewidth=1.1, zorder=1.5)
    if of_seeds := reach_of_seeds(rows.values()):
        panel.axvspan(-of_seeds, of_seeds, color=NULL_COLOUR, alpha=0.15, lw=0)
    panel.text(1.0, 1.01, "mean Dice", transform=panel.transAxes, ha="right", va="bottom", fontsize=9.5, color=QUIET)
    for place, arm in enumerate(arms):
        if arm not in rows:
            continue
        row, change = rows[arm], rows[arm]["mean_difference"]
        panel.annotate(f"{row['mean_dice']:.3f}", (1.0, place), xycoords=("axes fraction", "data"), ha="right",
                       va="center", fontsize=11, fontweight="bold")  # fmt: skip
        if change is None:
            panel.plot(0, place, "|", ms=16, mew=3, color=INK)
            continue
        if row["ci_low"] is not None:
            panel.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=colours[arm], lw=3.4, solid_capstyle="butt")
        if row["trainings_low"] is not None:
            panel.plot([row["trainings_low"], row["trainings_high"]], [place] * 2, color=colours[arm], lw=1)
        face = colours[arm] if differs(row, confidence) else "white"
        panel.plot(change, place, "D", ms=8, mfc=face, mec=colours[arm], mew=2)
        panel.annotate(signed(change).replace("-", "−"), (change, place), xytext=(0, 8), textcoords="offset points",
                       ha="center", va="bottom", fontsize=9.5,
                       bbox={"boxstyle": "round,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.75})  # fmt: skip
    kinds = ("ci_low", "ci_high", "trainings_low", "trainings_high", "mean_difference")
    ends = [row[kind] for row in rows.values() for kind in kinds]
    reach = max((abs(end) for end in ends if end is not None), default=0.0) or 0.1
    low, high = panel.get_xlim()
    panel.set_xlim(min(low, -1.15 * reach), max(high, 1.7 * reach))  # room for the numbers at the right
    panel.tick_params(axis="y", length=0)


def _ladder_key(confidence: float) -> str:
    return (
        f"Thick line: {100 * confidence:g} % interval over patients, if there are enough; thin: over patients and "
        "trainings.  Filled: shown to differ; hollow: not.\n"
        f"Thin lines hold {IF_EVEN}.  Grey band: what other seeds alone do, {100 * confidence:g} % of it."
    )


def size_words(size: int, n_train: Patients) -> str:
    return f"trained on {n_train[size]} patients ({size} %)"


def plot_learning(comparison: Sequence[Mapping], n_train: Patients, frame: Frame, out: Path) -> None:
    """Mean test Dice over the number of training patients, a line per arm; beside it the difference to the benchmark.

    The band of the left panel is the benchmark's own interval. Most of its width is that cases differ, which the
    arms share; so arms are compared by the right panel, whose intervals are of the paired difference.
    """
    rows = {(row["arm"], row["size"]): row for row in comparison if row["group"] == TEST}
    arms, benchmark_arm = frame.in_order({arm: None for arm, _ in rows}), frame.benchmark_arm
    colours = frame.colours(arms)

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharex=True)
        ends = {}
        for place, arm in enumerate(arms):
            line = [rows[arm, size] for size in sorted(n_train) if (arm, size) in rows]
            x = np.array([n_train[row["size"]] for row in line], float)
            dodged = x * 1.025 ** (place - (len(arms) - 1) / 2)  # intervals side by side
            look = {"color": colours[arm], "lw": 2.6 if arm == benchmark_arm else 1.8, "marker": "o", "ms": 5,
                    "ls": "--" if arm in frame.null_arms else "-"}  # fmt: skip
            _with_interval(left, x, line, ("mean_dice", "dice_low", "dice_high"), look, arm == benchmark_arm)
            ends[arm] = line[-1]["mean_dice"]
            if arm != benchmark_arm:
                _with_interval(right, dodged, line, DIFFERENCE, look, None)
        right.axhline(0, color=INK, lw=2.6)
        left.set_title("mean Dice of the test cases", fontsize=11.5, loc="left")
        right.set_title(f"difference to “{benchmark_arm}” at the same size", fontsize=11.5, loc="left")
        _patient_axes((left, right), n_train)
        handles = left.get_lines()
        by_end = sorted(range(len(arms)), key=lambda k: -ends[arms[k]])
        figure.legend([handles[k] for k in by_end], [arms[k] for k in by_end], loc="outside right center",
                      frameon=False, fontsize=10.5)  # fmt: skip
        figure.supxlabel("patients in the training set (logarithmic)\n", fontsize=11)
        key = (
            f"Left: the band is the interval of “{benchmark_arm}”, over patients, if there are enough.  "
            "Right: bars are intervals of the paired difference, over patients and trainings."
        )
        figure.text(0.5, 0.005, key, ha="center", va="bottom", fontsize=9.5, color=QUIET)
        headline(figure, "What is synthetic data worth when real data is scarce?", frame.study_name)

    save(12, 4.8, frame.dpi, out, draw)


def _with_interval(axis, x, line: Sequence[Mapping], keys: tuple[str, str, str], look: dict, band: bool | None) -> None:
    """A line, and its interval as a band (True), as bars (None) or not at all (False)."""
    middle, low, high = (np.array([row[key] for row in line], dtype=float) for key in keys)  # None is NaN: a gap
    axis.plot(x, middle, zorder=3, **look)
    if band:
        axis.fill_between(x, low, high, color=look["color"], alpha=0.1, lw=0)
    elif band is None:
        axis.vlines(x, low, high, color=look["color"], lw=2.2, alpha=0.75)


def _patient_axes(axes, n_train: Patients) -> None:
    for axis in axes:
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(FixedLocator(sorted(n_train.values())))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticklabels([f"{n_train[size]}\n({size} %)" for size in sorted(n_train)])
        axis.grid(color="#e4e4e4", linewidth=0.7)
        axis.margins(x=0.12)


def plot_froc(froc: Sequence[Mapping], n_train: Patients, frame: Frame, out: Path) -> None:
    """A small FROC per arm (columns) and size (rows), each over the benchmark's; bands from the table.

    ``froc``: rows of ``comparison/{segmenter}.froc.tsv``.
    """
    curves: dict[tuple, list[Mapping]] = {}
    for row in froc:
        curves.setdefault((row["size"], row["arm"], row["replicate"]), []).append(row)
    arms, benchmark_arm = frame.in_order({arm: None for _, arm, _ in curves}), frame.benchmark_arm
    sizes, colours = sorted({size for size, _, _ in curves}), frame.colours(arms)
    others = [arm for arm in arms if arm != benchmark_arm] or arms

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(sizes), len(others), sharex=True, sharey=True, squeeze=False)
        for row, size in zip(panels, sizes, strict=True):
            for panel, arm in zip(row, others, strict=True):
                for name in dict.fromkeys((benchmark_arm, arm)):
                    for replicate in (MEAN, ENSEMBLE):
                        _froc_line(panel, curves.get((size, name, replicate)), colours[name], replicate == ENSEMBLE)
                panel.set_title(_froc_title(curves, size, arm, benchmark_arm), fontsize=10, color=colours[arm])
                panel.grid(color="#e4e4e4", linewidth=0.7)
            row[0].set_ylabel(f"{size_words(size, n_train)}\nshare of nodules found", fontsize=10)
        panels[0, 0].set_xscale("log", base=2)
        panels[0, 0].set_ylim(0, 1.02)
        panels[0, 0].xaxis.set_major_locator(FixedLocator(RATES))
        panels[0, 0].set_xticklabels([_fraction(rate) for rate in RATES])
        figure.supxlabel(
            "false positives per case, at most\n"
            f"Black: “{benchmark_arm}”.  Line: mean over replicates, with its band over patients.  Dotted: ensemble.\n"
            "CPM: mean of the seven points; given is its change and the interval of that change, over patients alone.\n"
            "No band and no interval: too few patients for one.",
            fontsize=9.5, color=QUIET,
        )  # fmt: skip
        headline(figure, "How many nodules are found, at what cost in false alarms?", frame.study_name)

    save(max(9, 1.2 + 2.5 * len(others)), 1.5 + 2.7 * len(sizes), frame.dpi, out, draw)


def _froc_line(panel, rows: Sequence[Mapping] | None, colour: str, ensemble: bool) -> None:
    points = [row for row in rows or () if row["rate"] is not None]
    x, middle, low, high = (
        np.array([row[key] for row in points], float) for key in ("rate", "sensitivity", "ci_low", "ci_high")
    )
    panel.plot(x, middle, color=colour, lw=1.2 if ensemble else 2.2, ls=":" if ensemble else "-",
               marker=None if ensemble else "o", ms=4)  # fmt: skip
    if not ensemble:
        panel.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)


def _froc_title(curves: Mapping, size: int, arm: str, benchmark_arm: str) -> str:
    cpm = next(row for row in curves[size, arm, MEAN] if row["rate"] is None)
    if arm == benchmark_arm:
        return f"{arm}\nCPM {cpm['sensitivity']:.3f}"
    interval = ends_text(None, cpm["difference_low"], cpm["difference_high"])
    return f"{arm}\nCPM {signed(cpm['difference'])}{interval and f' ({interval})'}".replace("-0", "−0")


def _fraction(rate: float) -> str:
    return f"{rate:g}" if rate >= 1 else f"1/{1 / rate:g}"
