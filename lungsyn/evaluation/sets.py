"""Synthetic sets side by side: how real, how useful, how private and how dear each is. No torch, no files.

What is read here stands in other results: the audit's verdict and distances, the comparison of arms, the costs.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lungsyn.evaluation.figures import COLOURS, INK, QUIET, headline, save
from lungsyn.evaluation.groups import TEST
from lungsyn.settings.arms import Arm

PLANES = ("axial", "coronal", "sagittal")
COLUMNS = [
    "set", "size", "generator", "weights", "training_s", "training_mb", "volume_s", "volume_mb",
    *(f"frechet_{view}" for view in (*PLANES, "nodule")), "coverage", "coverage_floor",
    "verdict", "copies", "membership_auc", "outlines",
]  # fmt: skip
USE_COLUMNS = ["set", "size", "segmenter", "arm", "real", "dice", "of_benchmark", "difference", "p_holm"]
POINT = ["set", "size", "segmenter", "arm", "frechet", "of_benchmark", "verdict"]
OUTLINE = "outline: "  # how the audit's checks of outlines begin
WORST_FIRST = ("fail", "blind", "pass")  # the results of an audit
MARKERS = {"pass": "o", "blind": "s", "fail": "X"}


def set_row(verdict: Mapping, fidelity: Mapping, costs: Iterable[Mapping]) -> dict:
    """A row of ``COLUMNS``. ``costs``: rows of `costs.read_costs`. ``weights``: how many numbers the networks have.

    Fréchet distances are in units of the floor, that of held-out real cases. ``coverage`` is the mean over the planes.
    ``copies`` are places that are as close to a train case as planted copies. Seconds and memory (MB, of a GPU where
    there was one) are of the training, and of one volume; none where they are not known."""
    of = {key: verdict[key] for key in ("set", "size", "generator")}
    same = {"size": verdict["size"], "fold": verdict.get("fold"), "draw": None}  # the audit looks at the first draw
    mine = [job for job in costs if all(job.get(key) == value for key, value in same.items())]
    views = {view: found for view, found in fidelity["views"].items() if found}
    planes = [views[plane]["coverage"] for plane in PLANES if plane in views]
    checks = {check["check"]: check for check in verdict["checks"]}
    outlines = [check["result"] for name, check in checks.items() if name.startswith(OUTLINE)]
    copies = [check["value"] for name, check in checks.items() if name.endswith(": copies") and OUTLINE not in name]
    row = dict.fromkeys(COLUMNS) | of | {"verdict": verdict["result"]}
    trained = [job for job in mine if (job["verb"], job["generator"]) == ("train", of["generator"])]
    sampled = [job for job in mine if (job["verb"], job["set"]) == ("synthesise", of["set"])]
    row |= _cost("training", trained) | _cost("volume", sampled, len(verdict["cases"]))
    row["weights"] = next((job["weights"] for job in trained if job.get("weights")), None)
    row |= {f"frechet_{view}": found["frechet"]["ratio"] for view, found in views.items()}
    if planes:
        row |= {"coverage": fmean(of["synthetic"]["value"] for of in planes),
                "coverage_floor": fmean(of["floor"]["value"] for of in planes)}  # fmt: skip
    row["copies"] = sum(value or 0 for value in copies)
    row["membership_auc"] = checks["membership"]["value"] if "membership" in checks else None
    row["outlines"] = next((result for result in WORST_FIRST if result in outlines), None)
    return row


def _cost(what: str, jobs: Sequence[Mapping], parts: int = 1) -> dict:
    if not jobs:
        return {}
    peak = max(job["host_mb"] if job["device_mb"] is None else job["device_mb"] for job in jobs)
    return {f"{what}_s": sum(job["seconds"] for job in jobs) / parts, f"{what}_mb": peak}


def over_folds(rows: Iterable[Mapping]) -> list[dict]:
    """One row of ``COLUMNS`` for each set and size: means over the folds, the worst result, all copies."""
    found: dict[tuple, list[Mapping]] = {}
    for row in rows:
        found.setdefault((row["set"], row["size"]), []).append(row)
    return [{key: _one([row[key] for row in same], key) for key in COLUMNS} for same in found.values()]


def _one(values: Sequence[Any], key: str) -> Any:
    known = [value for value in values if value is not None]
    if not known or key in ("set", "size", "generator", "weights"):
        return known[0] if known else None
    if key in ("verdict", "outlines"):
        return min(known, key=WORST_FIRST.index)
    return sum(known) if key == "copies" else fmean(known)


def use_rows(comparison: Iterable[Mapping], arms: Mapping[str, Arm], benchmark: str) -> list[dict]:
    """A row of ``USE_COLUMNS`` for every arm with a synthetic set, on the test cases. ``comparison``: rows of
    `comparison.compare`, with ``segmenter``; ``arms``: those of the config."""
    tested = [row for row in comparison if row["group"] == TEST]
    known = {(row["segmenter"], row["size"]): row["mean_dice"] for row in tested if row["arm"] == benchmark}
    return [
        {"set": arms[row["arm"]].synthetic, "size": row["size"], "segmenter": row["segmenter"], "arm": row["arm"],
         "real": "yes" if arms[row["arm"]].real else "no", "dice": row["mean_dice"],
         "of_benchmark": row["mean_dice"] / dice if (dice := known[row["segmenter"], row["size"]]) else None,
         "difference": row["mean_difference"], "p_holm": row["p_holm"]}
        for row in tested
        if arms[row["arm"]].synthetic
    ]  # fmt: skip


def points_of(rows: Iterable[Mapping], uses: Iterable[Mapping]) -> list[dict]:
    """What is drawn: rows of ``POINT``, one for each arm that learns from a set alone, if its distance is known."""
    found = {(row["set"], row["size"]): row for row in rows}
    points = []
    for use in uses:
        of = found[use["set"], use["size"]]
        planes = [of[f"frechet_{plane}"] for plane in PLANES]
        if use["real"] == "no" and use["of_benchmark"] is not None and None not in planes:
            points.append({key: use.get(key) for key in POINT} | {"frechet": fmean(planes), "verdict": of["verdict"]})
    return points


def plot_sets(points: Sequence[Mapping], study_name: str, dpi: int, out: Path) -> None:
    """How useful each set is by itself, over how far from real CT it is; shape: the audit's verdict. ``points``: rows
    of ``POINT``."""
    names = list(dict.fromkeys(point["set"] for point in points))

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        axis.axhline(1, color=INK, lw=1, ls="--")
        axis.axvline(1, color=QUIET, lw=1, ls=":")
        axis.annotate("the benchmark arm", (1, 1), xycoords=("axes fraction", "data"), ha="right", va="bottom")
        axis.annotate("as far as new patients", (1, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="right",
                      va="bottom", color=QUIET)  # fmt: skip
        for point in points:
            place = point["frechet"], point["of_benchmark"]
            axis.plot(*place, MARKERS[point["verdict"]], color=COLOURS[names.index(point["set"]) % len(COLOURS)], ms=10,
                      mec="white")  # fmt: skip
            size = "" if point["size"] == 100 else f", {point['size']} %"
            axis.annotate(f"{point['set']}{size}, {point['segmenter']}", place, xytext=(8, 4), fontsize=9,
                          textcoords="offset points")  # fmt: skip
        axis.set(xscale="log", ylim=(0, None), xlabel="Fréchet distance, in floors of real CT: mean over the planes",
                 ylabel="Dice of a segmenter that learned from it alone,\nin parts of the benchmark arm's")  # fmt: skip
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(color="#ececec", lw=0.7)
        shapes = [Line2D([], [], ls="", marker=shape, color=QUIET, ms=9, label=f"audit: {result}")
                  for result, shape in MARKERS.items()]  # fmt: skip
        figure.legend(handles=shapes, loc="outside lower center", ncols=3, frameon=False)
        headline(figure, "Synthetic sets side by side", study_name)

    save(8.5, 6, dpi, out, draw)
