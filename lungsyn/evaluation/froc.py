"""FROC: the share of nodules found against the false positives per case that it costs.

A *candidate* is a component of the voxels with a nodule probability of at least ``CANDIDATE_PERCENT``; its
*confidence* is their mean probability. (The peak is the other usual choice; of a network that is sure of itself
many peaks are 100 %, and what ties cannot be ranked.) At each threshold the candidates of at least that
confidence are kept and matched to the nodules by the rule of `lesions`. The curve is read at LUNA16's seven
rates, whose mean sensitivity is the CPM (Niemeijer et al. 2011; Setio et al. 2017).
"""

from collections.abc import Iterable, Mapping

import numpy as np

from lungsyn.evaluation.groups import ENSEMBLE
from lungsyn.evaluation.lesions import contingency, judge, label
from lungsyn.evaluation.paired import FEWEST_PATIENTS, draw_patients, expanded_quantiles

CANDIDATE_PERCENT = 10
NONE_KEPT = 101  # a threshold above every confidence
THRESHOLDS = np.arange(NONE_KEPT, CANDIDATE_PERCENT - 1, -1)  # [t] percent, descending: more and more is kept
MEAN = "mean"  # over the replicates
POINT_COLUMNS = [
    "case", "patient", "split", "replicate", "n_nodules", "threshold", "found_nodules", "false_positives",
]  # fmt: skip
FROC_COLUMNS = [
    "arm", "replicate", "rate", "sensitivity", "ci_low", "ci_high", "difference", "difference_low", "difference_high",
]  # fmt: skip
RATES = np.array([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8])  # [r] false positives per case


def operating_points(percent: np.ndarray, nodules: np.ndarray) -> list[tuple[int, int, int]]:
    """(threshold, nodules found, false positives) of one case wherever a lower threshold lets in a candidate.

    ``percent``: nodule probability, uint8 0..100 ``[x y z]``; ``nodules``: the truth's indices. The first point
    keeps nothing, so every case has one.
    """
    components, n_components = label(percent >= CANDIDATE_PERCENT)
    _, counts = contingency(components, nodules, n_components)
    inside = components > 0
    sums = np.bincount(components[inside], weights=percent[inside], minlength=n_components + 1)[1:]
    confidence = (sums // counts[1:].sum(axis=1)).astype(int)  # [p] whole percent, rounded down
    points = [(NONE_KEPT, 0, 0)]
    for threshold in np.unique(confidence)[::-1]:
        found, _, false_positives = judge(counts, confidence >= threshold)
        points.append((int(threshold), int(found.sum()), false_positives))
    return points


def on_every_threshold(points: Iterable[tuple[int, int, int]]) -> np.ndarray:
    """Nodules found and false positives of one case at each of ``THRESHOLDS``: ``[2 t]``."""
    threshold, found, false_positives = np.array(sorted(points)).T
    return np.stack([found, false_positives])[:, np.searchsorted(threshold, THRESHOLDS)]


def sensitivity_at_rates(found, false_positives, n_nodules, n_cases) -> np.ndarray:
    """``[... r]``: the highest sensitivity of any threshold with at most each of ``RATES`` false positives per case.

    ``found``, ``false_positives``: totals ``[... t]``; ``n_nodules``, ``n_cases``: ``[...]``. Nothing is
    interpolated: each value is one that a threshold reaches. NaN where there is no nodule.
    """
    per_case = false_positives / np.asarray(n_cases)[..., None]
    best = [np.where(per_case <= rate, found, 0).max(axis=-1) for rate in RATES]
    with np.errstate(invalid="ignore"):
        return np.stack(best, axis=-1) / np.asarray(n_nodules)[..., None]


def froc(rows: Iterable[Mapping], samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Sensitivity at ``RATES`` and their mean, the CPM: ``[r + 1]``; and the same of ``[samples r + 1]`` bootstraps.

    ``rows``: operating points (``POINT_COLUMNS``) of one arm's replicates, which are averaged at equal rates.
    Patients are drawn with replacement, in the order of their names, so that two arms with the same patients
    have the same draws. A sample without a nodule says nothing about sensitivity: NaN.
    """
    replicates: dict[str, dict[str, list[Mapping]]] = {}
    for row in rows:
        replicates.setdefault(row["replicate"], {}).setdefault(row["case"], []).append(row)
    curves = [_by_patient(cases) for _, cases in sorted(replicates.items())]
    drawn = draw_patients(len(curves[0][3]), samples, seed).astype(float)  # [s p]
    estimate = np.mean([_with_mean(*(part.sum(axis=0) for part in curve)) for curve in curves], axis=0)
    return estimate, np.mean([_with_mean(*(drawn @ part for part in curve)) for curve in curves], axis=0)


def _with_mean(found, false_positives, n_nodules, n_cases) -> np.ndarray:
    at_rates = sensitivity_at_rates(found, false_positives, n_nodules, n_cases)
    return np.concatenate([at_rates, at_rates.mean(axis=-1, keepdims=True)], axis=-1)


def _by_patient(cases: Mapping[str, list[Mapping]]) -> tuple[np.ndarray, ...]:
    """Per patient: found ``[p t]``, false positives ``[p t]``, nodules ``[p]``, cases ``[p]``."""
    owner = [rows[0]["patient"] for rows in cases.values()]
    _, place = np.unique(owner, return_inverse=True)
    curves = np.array([
        on_every_threshold((row["threshold"], row["found_nodules"], row["false_positives"]) for row in rows)
        for rows in cases.values()
    ])  # [c 2 t]  # fmt: skip
    nodules = np.array([rows[0]["n_nodules"] for rows in cases.values()])
    summed = np.zeros((place.max() + 1, *curves.shape[1:]))
    np.add.at(summed, place, curves)
    return summed[:, 0], summed[:, 1], np.bincount(place, weights=nodules), np.bincount(place).astype(float)


def froc_rows(
    points: Mapping[str, Iterable[Mapping]], benchmark_arm: str, samples: int, confidence: float, seed: int
) -> list[dict]:
    """Rows of ``FROC_COLUMNS`` for every arm of ``points`` (operating points on the cases of one group).

    ``replicate`` is "mean" (over the replicates) or "ensemble"; ``rate`` None is the CPM. Differences are to
    the benchmark arm, on the same bootstrap samples; its own are None.
    """
    rows = []
    for replicate in (MEAN, ENSEMBLE):
        curves = {
            arm: froc(chosen, samples, seed)
            for arm in points
            if (chosen := [row for row in points[arm] if (row["replicate"] == ENSEMBLE) == (replicate == ENSEMBLE)])
        }
        for arm, (estimate, drawn) in curves.items():
            n_patients = len({row["patient"] for row in points[arm]})
            low, high = _interval(drawn, n_patients, confidence)
            change, change_low, change_high = [[None] * len(estimate)] * 3
            if arm != benchmark_arm:
                change = estimate - curves[benchmark_arm][0]
                change_low, change_high = _interval(drawn - curves[benchmark_arm][1], n_patients, confidence)
            rows += [
                dict(zip(FROC_COLUMNS, (arm, replicate, *cells), strict=True))
                for cells in zip(
                    [*RATES, None], estimate, low, high, change, change_low, change_high, strict=True
                )
            ]  # fmt: skip
    return rows


def _interval(drawn: np.ndarray, n_patients: int, confidence: float) -> tuple:
    """Both ends of each column's interval; None for fewer than `FEWEST_PATIENTS`, or where all samples are alike."""
    usable = drawn[np.isfinite(drawn).all(axis=1)]
    if n_patients < FEWEST_PATIENTS or not len(usable):
        return ([None] * drawn.shape[1],) * 2
    ends, sure = expanded_quantiles(usable, n_patients, confidence), np.ptp(usable, axis=0) > 0
    return tuple([float(end) if told else None for end, told in zip(side, sure, strict=True)] for side in ends)
