"""Figures of numbers: tables in, PNG out. Pictures of CT are drawn by `pictures`.

Colours are those of Okabe and Ito, told apart by colour-blind readers; grey is the null arm's alone. No
pyplot: a figure is an object, so nothing is global and nothing needs a display.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lungsyn.evaluation.comparison import signed
from lungsyn.evaluation.groups import GROUPS, OTHER, TEST, WORST, case_means, group_of
from lungsyn.evaluation.scores import Scores
from lungsyn.volume.files import whole_file

LINES = ("-", "--", ":", "-.")  # one per training-set size
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
NULL_COLOUR, INK, QUIET = "#7a7a7a", "#1a1a1a", "#666666"
STYLE = {
    "font.size": 10.5, "font.family": "DejaVu Sans", "text.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#bbbbbb", "axes.linewidth": 0.8,
    "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "xtick.major.size": 0, "ytick.major.size": 3,
}  # fmt: skip
PANEL_NOTES = {
    WORST: "chosen for scoring badly,\nso they improve by themselves\n(regression to the mean): no claims",
    OTHER: "what was left after that choice,\nso they worsen by themselves:\nno claims",
    TEST: "the workflow chooses nothing by them:\nonly this panel supports claims",
}


@dataclass(frozen=True)
class Frame:
    """What the figures of arms share: the arm that all are compared with, those that only other seeds tell from it,
    the study's name as it stands above, and dots per inch."""

    benchmark_arm: str
    null_arms: Collection[str]
    study_name: str
    dpi: int

    def colours(self, arms: Iterable[str]) -> dict[str, str]:
        return arm_colours(arms, self.benchmark_arm, self.null_arms)

    def in_order(self, arms: Iterable[str]) -> list[str]:
        return in_order(arms, self.benchmark_arm, self.null_arms)


def save(width_in: float, height_in: float, dpi: int, out: Path, draw: Callable[[Figure], None]) -> None:
    """A figure of this size (inches), drawn by ``draw`` in the house style, written whole or not at all."""
    with matplotlib.rc_context(STYLE), whole_file(out) as temporary:
        figure = Figure((width_in, height_in), dpi=dpi, layout="constrained", facecolor="white")
        draw(figure)
        figure.savefig(temporary, format="png")


def headline(figure: Figure, words: str, study_name: str) -> None:
    """The figure's title. A study's name is the user's: a dollar sign in it is no formula."""
    figure.suptitle(f"{words}   study: {study_name}", fontsize=14, fontweight="bold", parse_math=False)


def in_order(arms: Iterable[str], benchmark_arm: str, null_arms: Collection[str]) -> list[str]:
    """The benchmark first, the null arms last, the others as they come."""
    others = [arm for arm in arms if arm != benchmark_arm and arm not in null_arms]
    return [benchmark_arm, *others, *(arm for arm in arms if arm in null_arms and arm != benchmark_arm)]


def arm_colours(arms: Iterable[str], benchmark_arm: str, null_arms: Collection[str]) -> dict[str, str]:
    """One colour per arm in every figure: ink for the benchmark, grey for the null arms."""
    fixed = dict.fromkeys(null_arms, NULL_COLOUR) | {benchmark_arm: INK}
    others = (arm for arm in arms if arm not in fixed)
    return fixed | {arm: COLOURS[k % len(COLOURS)] for k, arm in enumerate(others)}


def plot_dice_difference(
    scores: Scores, comparison: Sequence[Mapping], worst: Collection[str], frame: Frame, out: Path
) -> None:
    """THE figure: each case's Dice minus its Dice in the benchmark arm; panels are groups, columns are arms.

    ``comparison`` (rows of `comparison.compare`) brings means and intervals, so figure and table cannot
    disagree. The null arms are drawn grey and last. The band is how far other seeds alone move the mean.
    """
    benchmark_arm, null_arms = frame.benchmark_arm, [arm for arm in scores if arm in frame.null_arms]
    arms, colours = frame.in_order(scores)[1:], frame.colours(scores)
    rows = {(row["group"], row["arm"]): row for row in comparison}
    groups = [group for group in GROUPS if (group, benchmark_arm) in rows]
    key = [
        "Dot: one case, mean over replicates.  Diamond: mean over cases.  Line: its interval over patients, if there "
        "are enough; thin: over patients and trainings.",
        *(
            f"Grey: “{arm}”, the data of “{benchmark_arm}”, other random seeds: chance alone.  Band: how far they move "
            "the mean."
            for arm in null_arms
        ),
    ]

    def draw(figure: Figure) -> None:
        figure.get_layout_engine().set(w_pad=0.03, wspace=0.02)
        widths = [1.2 if group == TEST else 1.0 for group in groups]
        panels = figure.subplots(1, len(groups), sharey=True, squeeze=False, width_ratios=widths)[0]
        for panel, group in zip(panels, groups, strict=True):
            changes = _changes(scores, arms, benchmark_arm, group, worst)
            _difference_panel(panel, group, changes, rows, colours)
        panels[0].set_ylabel(f"worse  ←     Dice of a case, minus its Dice in “{benchmark_arm}”     →  better")
        headline(figure, "Does synthetic data help?", frame.study_name)
        figure.supxlabel("\n".join(key), fontsize=9.5, color=QUIET)

    save(11 + 1.8 * max(len(arms) - 6, 0), 6.2, frame.dpi, out, draw)  # room for the numbers of more than six columns


def _changes(scores: Scores, arms, benchmark_arm: str, group: str, worst) -> dict[str, np.ndarray]:
    """Per arm, the differences of the group's cases to the benchmark arm ``[n]``, ascending."""
    means = {
        arm: case_means((r for r in scores[arm] if group_of(r, worst) == group), "dice")
        for arm in (*arms, benchmark_arm)
    }
    return {arm: np.sort([means[arm][case] - value for case, value in means[benchmark_arm].items()]) for arm in arms}


def reach_of_seeds(rows: Iterable[Mapping]) -> float:
    """How far other seeds alone move the mean of an arm with these rows; 0 where that is not known."""
    return max((row["of_seeds"] or 0.0 for row in rows), default=0.0)


def _difference_panel(panel, group: str, changes: dict, rows: Mapping, colours: dict) -> None:
    claims, many = group == TEST, len(changes) > 4
    n_cases = next(row["n_cases"] for (of, _), row in rows.items() if of == group)
    panel.set_title(f"{group}   n = {n_cases}", fontweight="bold" if claims else "normal", fontsize=12.5, pad=50)
    note = panel.text(0.5, 1.02, PANEL_NOTES[group], transform=panel.transAxes, ha="center", va="bottom",
                      fontsize=9.5, color=INK if claims else "#9a3b00",
                      style="normal" if claims else "italic")  # fmt: skip
    note.set_in_layout(False)  # else a long line would narrow its panel
    panel.set_facecolor("white" if claims else "#f6f6f4")
    panel.grid(axis="y", color="#e4e4e4", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.axhline(0, color=INK, linewidth=1.1, zorder=1.5)
    if of_seeds := reach_of_seeds(rows[group, arm] for arm in changes):
        panel.axhspan(-of_seeds, of_seeds, color=NULL_COLOUR, alpha=0.15, lw=0)
    for place, (arm, change) in enumerate(changes.items()):
        row = rows[group, arm]
        panel.scatter(place - 0.12 + jitter(len(change), 0.42), change, s=20, color=colours[arm], alpha=0.5, lw=0)
        if row["ci_low"] is not None:
            panel.plot([place + 0.27] * 2, [row["ci_low"], row["ci_high"]], color=INK, lw=2.8, solid_capstyle="butt")
        if row["trainings_low"] is not None:
            panel.plot([place + 0.27] * 2, [row["trainings_low"], row["trainings_high"]], color=INK, lw=0.9)
        panel.plot(place + 0.27, row["mean_difference"], "D", ms=7, mfc=colours[arm], mec=INK, mew=1.2)
        panel.annotate(
            signed(row["mean_difference"]).replace("-", "−"), (place, 0.985),
            xycoords=("data", "axes fraction"), ha="center", va="top", fontsize=8.3 if many else 10.5,
            fontweight="bold" if claims else "normal",
            bbox={"boxstyle": "round,pad=0.15", "fc": panel.get_facecolor(), "ec": "none"},
        )  # fmt: skip
    panel.set_xlim(-0.55, len(changes) - 0.4)
    panel.margins(y=0.12)  # room for the numbers above the dots
    # Many names are slanted, few are broken in two lines.
    labels = [arm if many else arm.replace("+", "+\n").replace("-", "-\n") for arm in changes]
    panel.set_xticks(range(len(changes)), labels, fontsize=9.3, rotation=40 if many else 0)
    for label in panel.get_xticklabels() if many else ():
        label.set(ha="right", rotation_mode="anchor")


def jitter(n: int, width: float) -> np.ndarray:
    """Offsets ``[n]`` in +-width/2 for ascending values: neighbours lie far apart (golden ratio sequence)."""
    return ((np.arange(n) * 0.6180339887 + 0.5) % 1.0 - 0.5) * width


class Training(NamedTuple):
    """What was trained, as the lines of its ``training.jsonl`` say: an arm or a generator, on how much, which time, in
    which fold if there are any."""

    panel: str  # of the figure: the generators', or a segmenter's
    name: str
    size: int
    replicate: int
    fold: int | None = None
    draw: int | None = None

    @property
    def family(self) -> str:
        """Its replicates and folds have one colour, one kind of line and one entry of the legend."""
        return f"{self.name}, {self.size} %"


def trained(records: Sequence[Mapping]) -> Training:
    first = records[0]
    if "segmenter" in first:
        panel, name = f"segmenter {first['segmenter']}", first["arm"]
    else:
        panel, name = "generator", first["generator"]
    return Training(panel, name, first["size"], first.get("replicate", 0), first.get("fold"), first.get("draw"))


def plot_training(curves: Iterable[Sequence[Mapping]], frame: Frame, out: Path) -> None:
    """Loss against work done: a panel for the generators and one for each segmenter.

    A curve is the lines of one ``training.jsonl``. Each line has ``images_seen``, and ``loss`` or ``validation`` or
    both; and it says what was trained: ``segmenter``, ``arm``, ``size`` and ``replicate``, or ``generator`` and
    ``size``. An arm has its colour of the other figures, a size its kind of line.
    """
    panels: dict[str, dict[Training, Sequence[Mapping]]] = {}
    for records in curves:
        training = trained(records)
        panels.setdefault(training.panel, {})[training] = records

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, len(panels), squeeze=False)[0] if panels else []
        for axis, (title, trainings) in zip(axes, panels.items(), strict=True):
            _training_panel(axis, title, trainings, frame)
        headline(figure, "Training" if panels else "Training: none wrote down its loss", frame.study_name)

    families = max((len({training.family for training in trainings}) for trainings in panels.values()), default=0)
    save(11, 4.4 + 0.12 * families, frame.dpi, out, draw)


def _training_panel(axis, title: str, trainings: Mapping[Training, Sequence[Mapping]], frame: Frame) -> None:
    colours = frame.colours(dict.fromkeys(training.name for training in trainings))
    sizes = list(dict.fromkeys(training.size for training in trainings))
    seen = set()
    for training, records in trainings.items():
        colour, line = colours[training.name], LINES[sizes.index(training.size) % len(LINES)]
        done, loss = _series(records, "loss")
        checked, validation = _series(records, "validation")
        label = None if training.family in seen else training.family
        seen.add(training.family)
        if len(trainings) == 1:
            axis.plot(done, loss, color=colour, lw=0.8, alpha=0.3)
        axis.plot(done, smoothed(loss), line, color=colour, lw=1.6, label=label and f"{label}: training")
        if len(checked):
            axis.plot(checked, validation, f"o{line}", color=INK if len(trainings) == 1 else colour, ms=4, lw=1.2,
                      label=label and f"{label}: validation")  # fmt: skip
    axis.set_title(title)
    loss_against_patches(axis)
    axis.grid(which="both", color="#ececec", linewidth=0.7)
    axis.legend(frameon=False, fontsize=9.5, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2)


def loss_against_patches(axis) -> None:
    """Name and scale the axes of a loss curve. Each tick is named by its value: by powers of ten many look alike."""
    axis.set(xlabel="patches seen", ylabel="loss", yscale="log")
    axis.yaxis.set(major_formatter="{x:.3g}", minor_formatter="{x:.3g}")
    axis.xaxis.set(major_locator=MaxNLocator(5), major_formatter="{x:,.0f}")


def _series(records: Sequence[Mapping], key: str) -> tuple[np.ndarray, np.ndarray]:
    """The work done at, and the value of, each record that has ``key``: ``[n]`` and ``[n]``."""
    points = [(record["images_seen"], record[key]) for record in records if record.get(key) is not None]
    return tuple(np.array(points, dtype=float).reshape(-1, 2).T)


def smoothed(values: np.ndarray, fraction: float = 0.05) -> np.ndarray:
    """Running median over a ``fraction`` of the series, its ends shortened; same length."""
    half = int(len(values) * fraction / 2)
    return np.array([np.median(values[max(0, k - half) : k + half + 1]) for k in range(len(values))])
