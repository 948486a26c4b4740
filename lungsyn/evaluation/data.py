"""The numbers behind each picture, as the table that lies beside it: the same name, ``.tsv``."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.evaluation.figures import trained
from lungsyn.evaluation.groups import ENSEMBLE, GROUPS, TEST, case_means, chosen_changes, group_of
from lungsyn.evaluation.scores import Scores
from lungsyn.volume.tables import write_table

CHANGE = ["case", "group", "arm", "dice", "difference"]
CASE = ["case", "rule", "arm", "replicate", "dice"]
NODULE = ["case", "nodule", "diameter_mm", "found_by"]
LOSS = ["panel", "name", "size", "replicate", "images_seen", "loss", "validation"]
MEASURE = ["measure", "low", "high", "of", "case", "attempt", "value"]
PROBED = ["kind", "group", "case", "place", "correlation", "nearest", "held_out_correlation", "held_out_nearest"]
SHEET = ["case", "is"]
FIDELITY = ["measure", "of", "at", "value", "low", "high"]


def write_data(picture: Path, rows: Iterable[Mapping], columns: list[str]) -> None:
    """The table beside a picture; what a row does not have stays empty."""
    write_table(picture.with_suffix(".tsv"), [{key: row.get(key) for key in columns} for row in rows], columns)


def changes(scores: Scores, benchmark_arm: str, worst: Collection[str]) -> list[dict]:
    """Each case's Dice in each arm (mean over replicates), and its difference to the benchmark arm: ``CHANGE``."""
    found = []
    for group in GROUPS:
        means = {
            arm: case_means((row for row in rows if group_of(row, worst) == group), "dice")
            for arm, rows in scores.items()
        }
        found += [
            {"case": case, "group": group, "arm": arm, "dice": dice, "difference": dice - means[benchmark_arm][case]}
            for arm, of_arm in means.items()
            for case, dice in of_arm.items()
        ]
    return found


def drawn_cases(scores: Scores, arms: tuple[str, str]) -> list[dict]:
    """The test cases that are drawn, and their Dice in each replicate of both arms: ``CASE``."""
    rules = chosen_changes(scores, arms[1], arms[0])
    return [
        {"case": case, "rule": rule, "arm": arm, "replicate": row["replicate"], "dice": row["dice"]}
        for case, rule in rules.items()
        for arm in arms
        for row in scores[arm]
        if row["case"] == case and row["split"] == TEST and row["replicate"] != ENSEMBLE
    ]


def turned_nodules(found: tuple[Sequence[Mapping], Sequence[Mapping]], arms: tuple[str, str]) -> list[dict]:
    """The nodules that only one arm found, of `strata.turned`, the second arm's first: ``NODULE``."""
    return [
        {key: row[key] for key in NODULE[:-1]} | {"found_by": arm}
        for arm, rows in zip(reversed(arms), found, strict=True)
        for row in rows
    ]


def losses(curves: Iterable[Sequence[Mapping]]) -> list[dict]:
    """Every line of the loss curves: ``LOSS``."""
    return [
        trained(records)._asdict() | {key: record.get(key) for key in LOSS[4:]}
        for records in curves
        for record in records
    ]


def measured(reference: Mapping, records: Sequence[Mapping]) -> list[dict]:
    """Each measure of each train case and of each attempt at a volume, with the range: ``MEASURE``."""
    rows = []
    for name, values in reference["values"].items():
        ends = {"measure": name} | {end: reference["measures"][name][end] for end in ("low", "high")}
        rows += [ends | {"of": "real train", "case": case, "value": value} for case, value in values.items()]
        rows += [
            ends | {"of": "rejected" if record["faults"] else "accepted", "case": record["volume"],
                    "attempt": record["attempt"], "value": record["measures"][name]}
            for record in records
            if name in record["measures"]
        ]  # fmt: skip
    return rows


def distances(found: Mapping) -> list[dict]:
    """What `floor.audit` measured of a set and of its floor, with its curves: ``FIDELITY``."""
    rows = []
    for view, measures in found["views"].items():
        for measure in ("frechet", "kid") if measures else ():
            rows += [
                {"measure": f"{measure}, {view}", "of": of} | measures[measure][of] for of in ("synthetic", "floor")
            ]
    if spectrum := found["spectrum"]:
        for of, power in spectrum["power"].items():
            rows += [
                {"measure": "noise power, HU2 mm2, at 1/mm", "of": of, "at": at, "value": value}
                for at, value in zip(spectrum["frequency_per_mm"], power, strict=True)
            ]
    for tissue, histogram in found["tissues"].items():
        for of, shares in (histogram["histograms"] if histogram else {}).items():
            rows += [
                {"measure": f"share of {tissue}, at HU", "of": of,
                 "at": histogram["first_hu"] + histogram["bin_hu"] * (k + 0.5), "value": share}
                for k, share in enumerate(shares)
            ]  # fmt: skip
    return rows


def probed(rows: Iterable[Mapping], kinds: Collection[str]) -> list[Mapping]:
    """The rows of ``nearest.tsv`` of these kinds, closest first, without planted copies: ``PROBED``."""
    shown = [row for row in rows if row["kind"] in kinds and row["group"] in ("synthetic", "held-out")]
    return sorted(shown, key=lambda row: (row["group"], row["kind"], -float(row["correlation"])))


def read_curves(paths: Sequence[Path]) -> list[list[dict]]:
    """The lines of each loss curve that has any. Raises InputError for one that does not say what was trained."""
    curves = []
    for path in paths:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if records and "size" not in records[0]:
            raise InputError(
                f"{path} does not say what was trained, as when an older version wrote it: delete it and give the same "
                "command again, which trains again"
            )
        curves += [records] if records else []
    return curves
