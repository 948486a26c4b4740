"""Nodules of one kind: by diameter, texture and place, how many an arm finds and how well it outlines them.

Strata are for looking: there are many, they are small, and nothing is corrected for their number. The
comparison of the arms is the place for claims.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from lungsyn.evaluation.groups import ENSEMBLE
from lungsyn.evaluation.paired import by_patient, interval_over_patients

DIAMETER_MM = {"< 6 mm": 6, "6-10 mm": 10, "10-20 mm": 20, "> 20 mm": np.inf}  # upper ends, not included
TEXTURE = {"ground glass": 2.5, "part solid": 3.5, "solid": np.inf}  # of the readers' mean, 1 to 5 (3: part solid)
PLEURA = {True: "at the pleura", False: "inside the lung"}
NOT_RATED = "texture not rated"
ALL = "all nodules"
STRATA = [ALL, *DIAMETER_MM, *TEXTURE, NOT_RATED, *PLEURA.values()]
_DIFFERENCES = [
    f"{measure}_{part}" for measure in ("sensitivity", "dice") for part in ("difference", "ci_low", "ci_high")
]
STRATA_COLUMNS = ["arm", "stratum", "n_nodules", "n_patients", "sensitivity", "lesion_dice", *_DIFFERENCES]


def diameter_stratum(diameter_mm: float) -> str:
    return next(name for name, end in DIAMETER_MM.items() if diameter_mm < end)


def strata_of(nodule: Mapping) -> tuple[str, ...]:
    """The strata that a row of the nodule table belongs to."""
    texture = nodule["texture"]
    return (
        ALL,
        diameter_stratum(nodule["diameter_mm"]),
        NOT_RATED if texture is None else next(name for name, end in TEXTURE.items() if texture < end),
        PLEURA[bool(nodule["touches_pleura"])],
    )


def strata_rows(nodules: Mapping[str, Sequence[Mapping]], benchmark_arm: str, confidence: float) -> list[dict]:
    """Rows of ``STRATA_COLUMNS``: every arm in every stratum that has nodules.

    ``nodules``: rows of each arm's nodule table, of one group of cases. The unit is a nodule, its values are
    means over the replicates, intervals are over patients. Differences are to ``benchmark_arm``, paired by nodule; its
    own are None.
    """
    facts = {_key(row): row for row in nodules[benchmark_arm]}
    means = {
        arm: {measure: nodule_means(rows, measure) for measure in ("found", "dice")} for arm, rows in nodules.items()
    }
    rows = []
    for stratum in STRATA:
        members = [key for key in sorted(facts) if stratum in strata_of(facts[key])]
        patients = [facts[key]["patient"] for key in members]
        for arm in nodules if members else ():
            values = {measure: np.array([means[arm][measure][key] for key in members]) for measure in ("found", "dice")}
            row = dict.fromkeys(STRATA_COLUMNS) | {
                "arm": arm, "stratum": stratum, "n_nodules": len(members), "n_patients": len(set(patients)),
                "sensitivity": float(values["found"].mean()), "lesion_dice": float(values["dice"].mean()),
            }  # fmt: skip
            for name, measure in (("sensitivity", "found"), ("dice", "dice")) if arm != benchmark_arm else ():
                change = values[measure] - [means[benchmark_arm][measure][key] for key in members]
                low, high = interval_over_patients(*by_patient(change, patients), confidence)
                row |= {f"{name}_difference": float(change.mean()), f"{name}_ci_low": low, f"{name}_ci_high": high}
            rows.append(row)
    return rows


def nodule_means(rows: Iterable[Mapping], measure: str) -> dict[tuple[str, int], float]:
    """Mean of ``measure`` over the replicates by (case, nodule); the ensemble is not a replicate."""
    values: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row["replicate"] != ENSEMBLE:
            values.setdefault(_key(row), []).append(float(row[measure]))
    return {key: sum(found) / len(found) for key, found in values.items()}


def _key(row: Mapping) -> tuple[str, int]:
    return row["case"], row["nodule"]


def turned(before: Sequence[Mapping], after: Sequence[Mapping]) -> tuple[list[Mapping], list[Mapping]]:
    """Nodules that more than half of the replicates found with one arm and at most half with the other.

    Two lists of rows (of ``before``, one per nodule): found by ``after`` only, and by ``before`` only. The ones
    that most replicates changed their mind about come first, of these the larger ones.
    """
    facts = {_key(row): row for row in before}
    shares = [nodule_means(rows, "found") for rows in (before, after)]
    change = {key: shares[1][key] - shares[0][key] for key in facts if (shares[0][key] > 0.5) != (shares[1][key] > 0.5)}
    order = sorted(change, key=lambda key: (-abs(change[key]), -facts[key]["diameter_mm"], key))
    return [facts[key] for key in order if change[key] > 0], [facts[key] for key in order if change[key] < 0]
