"""What stands beside what: synthetic cases beside real ones, and predictions of two arms on one test case."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lungsyn.evaluation.pictures import choose
from lungsyn.viewer.chosen import neighbours, shown_of_set, shown_tests
from lungsyn.viewer.folder import Shelf, side
from lungsyn.volume.files import read_json


def view_of_set(shelf: Shelf, title: str, made: Mapping[str, Path], nearest: Sequence[Mapping]) -> dict:
    """Synthetic cases of one set, each beside the nearest real ones and a random train case. ``made``: their folders by
    name; ``nearest``: the audit's rows on the set."""
    count, seed = shelf.settings.viewer_cases, shelf.study.seed
    chosen = shown_of_set(list(made), nearest, count, seed)
    train = [name for name in shelf.cases if shelf.split[name] == "train"]
    random = choose(train, len(train), seed)
    cases = [
        _synthetic(shelf, made[name], why, neighbours(name, nearest), random[k % len(random)])
        for k, (name, why) in enumerate(chosen.items())
    ]
    return {"title": title, "cases": cases}


def _synthetic(shelf: Shelf, folder: Path, why: str, near: Sequence[Mapping], random: str) -> dict:
    number = shelf.put(folder, "synthetic")
    places = shelf.volumes[number]["nodules"]
    beside = []
    for found in (found for found in near if found["case"] in shelf.cases):
        other = shelf.real(found["case"])
        further = {}
        if found["own"]:
            further = {
                "beside_at": places.get(found["own"]), "at": shelf.volumes[other]["nodules"].get(found["other"]),
            }  # fmt: skip
        beside.append(side(other, found["words"], **further))
    beside.append(side(shelf.real(random), "a train case drawn at random"))
    return {"name": folder.name, "why": why, "left": [side(number, "synthetic", _faults(folder))], "right": beside}


def _faults(folder: Path) -> list[str]:
    """Why quality control rejects a synthetic case that was kept, in words."""
    faults = read_json(folder / "case.json").get("quality", {}).get("faults", [])
    return [f"rejected by quality control: {fault['reason']}" for fault in faults]


def view_of_predictions(
    shelf: Shelf, title: str, key: int, scores: Mapping[str, Sequence[Mapping]], predicted: Sequence[Mapping]
) -> dict:
    """Test cases with the prediction of any arm and replicate, two of them side by side. ``scores``: rows by arm;
    ``predicted``: rows of `predictions.read_predictions` of the same segmenter and size."""
    drawn, dice = shelf.settings.case_arms, {}
    for arm, rows in scores.items():
        dice |= {(arm, row["replicate"], row["case"]): float(row["dice"]) for row in rows}
    cases = []
    for name, why in shown_tests(scores, drawn, shelf.settings.viewer_cases, shelf.study.seed).items():
        mine = [row for row in predicted if row["case"] == name]
        number = shelf.real(name)
        file = shelf.predictions(name, key, {f"{row['arm']}/{row['replicate']}": row["file"] for row in mine})
        sides = [
            side(number, f"arm {row['arm']}, replicate {row['replicate']}",
                 [f"Dice {dice[row['arm'], row['replicate'], name]:.3f}"],
                 mask={"file": file, "key": f"{row['arm']}/{row['replicate']}"})
            for row in mine
        ]  # fmt: skip
        arms = [row["arm"] for row in mine]
        begin = {"begin": [arms.index(arm) if arm in arms else 0 for arm in drawn]}
        cases.append({"name": name, "why": why, "left": sides, "right": sides} | begin)
    return {"title": title, "cases": cases}
