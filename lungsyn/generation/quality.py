"""Is a synthetic case fit to be one? Numbers of its voxels, each beside the range that real train cases give.

A *measure* is one number of a case (``MEASURES``). Its *range* comes from the same measure of the train cases: the
median, and beyond it ``width`` times the way from there to the 5 % and to the 95 % quantile, so that a skewed measure
has a skewed range and one odd case in twenty moves nothing. Positive measures that spread by factors are treated so in
their logarithm. Where more, or less, is never wrong, the range has one end only: no chest has too much of a spine.

The width is one for all measures of a family (``FAMILIES``: the image, and the anatomy in it), so that an odd scanner
does not excuse a missing spine. It is chosen so that as few real cases are rejected as the config says, half of them by
either family: each train case is held against the ranges of all the others, and the width is the one that lets that
share of them through (a conformal quantile: Vovk, Gammerman and Shafer 2005). Few train cases thus make wide ranges.

A measure that a case has too few voxels for, such as soft tissue in a cut-out of lung, is left out for that case; so is
all anatomy of what is no whole chest. Of an inpainted case only nodules that were made are measured: the rest is a real
CT.

A case with a fault is *rejected* and made again with another noise (``attempts``); the masks stay the same. The last
attempt is kept whatever it is, and marked: an arm has as many volumes as the config says, no mask is missing because it
is hard to make, and how many of them are faulty stands in the report. Arrays are ``[x y z]``; HU.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from lungsyn.anatomy import measures as anatomy
from lungsyn.random import seed_of
from lungsyn.settings.synthesis import Grid
from lungsyn.volume.files import Case
from lungsyn.volume.intensity import AERATED_HU, AIR_HU, NOT_FINITE_HU
from lungsyn.volume.patches import axis_starts, padded_shape, patch_stride

FEWEST_VOXELS = 200  # of a tissue, or inside the body on a plane, to be measured
FEWEST_NODULE_VOXELS = 5
FEWEST_SHELL_VOXELS = 20
SHELL_MM = 4.0  # the shell that a nodule is compared with: so thick, one voxel away from it
NEAR_VOXELS = 2  # planes so close to a border of patches are no reference
FEWEST_CASES = 5  # of the train split that have a measure, for it to have a range
QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class Measure:
    """What a measure is, the least difference to the train median that counts, whether it spreads by factors.

    ``lowest`` or ``highest``: no value towards it is wrong, so that the range ends there.
    """

    what: str
    least: float
    log: bool = False
    lowest: float | None = None
    highest: float | None = None


IMAGE = {
    "finite": Measure("share of voxels with a finite value", 0.0),
    "body_spread_hu": Measure("standard deviation in the body, HU", 5.0, log=True),
    "tissue_hu": Measure("median of soft tissue, HU", 30.0),
    "tissue_spread_hu": Measure("interquartile range of soft tissue, HU", 10.0, log=True),
    "lung_hu": Measure("median of the lungs, HU", 30.0),
    "lung_spread_hu": Measure("interquartile range of the lungs, HU", 10.0, log=True),
    "lung_solid": Measure("share of the lungs above -400 HU", 0.02, log=True),
    "tissue_aerated": Measure("share of the body outside the lungs below -400 HU", 0.05, log=True),
    "noise_hu": Measure("noise of soft tissue (robust deviation from the mean of 27 voxels), HU", 3.0, log=True),
    "noise_correlation": Measure("correlation of that noise in neighbouring voxels", 0.1),
    "seam_ratio": Measure("gradient across planes where patches meet, relative to half a patch away", 0.1, log=True),
    "seam_step_hu": Measure("largest jump of a whole plane where patches meet, HU", 5.0),
    "nodule_hu": Measure("median of the darkest nodule, HU", 30.0),
    "nodule_spread_hu": Measure("interquartile range in nodules, HU", 10.0, log=True),
    "nodule_contrast_hu": Measure("weakest nodule: its median minus that of the lung around it, HU", 5.0, log=True),
}
ANATOMY = {
    "spine_slices": Measure("share of slices with connected bone in the spine's place", 0.1, highest=1.0),
    "rib_slices": Measure("share of slices with ribs on both sides", 0.15, highest=1.0),
    "bone_connected": Measure("share of bone in connected pieces of 5 ml or more", 0.1, highest=1.0),
    "airway_mm": Measure("height of the airway (trachea and main bronchi), mm", 30.0, highest=1000.0),
    "fat_muscle_valley": Measure("valley between fat and muscle in the histogram (1: apart)", 0.1, highest=1.0),
    "organ_mottle_hu": Measure("mottle of the most even soft tissue, HU", 4.0, log=True, lowest=0.0),
    "heart_left": Measure("share of the tissue between the lungs left of the midline", 0.15),
    "vessel_share": Measure("share of the inner lungs that is vessel", 0.015),
    "vessel_connected": Measure("share of the vessels in connected pieces of 0.5 ml or more", 0.08, highest=1.0),
}
MEASURES = IMAGE | ANATOMY
FAMILIES = {"image": IMAGE, "anatomy": ANATOMY}


# ----------------------------------------------------------------------------------------------------- measuring a case


def measure(case: Case, grid: Grid, made: np.ndarray | None = None) -> dict[str, float]:
    """Every measure that ``case`` has the voxels for. ``made`` (bool): what an inpainted case did not keep."""
    ct = np.asarray(case.ct)
    unusable = ~np.isfinite(ct) | (ct == NOT_FINITE_HU)
    hu = np.where(unusable, AIR_HU, ct).astype(np.float32)
    nodules, spacing_mm = np.asarray(case.nodules), float(case.space.spacing_mm.mean())
    lungs = (np.asarray(case.lungs) > 0) & (nodules == 0)
    found = {"finite": float(1 - unusable.mean())}
    if made is not None:
        whole = [i for i in np.unique(nodules[nodules > 0]) if made[nodules == i].all()]
        return found | nodule_measures(hu, np.where(np.isin(nodules, whole), nodules, 0), lungs, spacing_mm)
    body = np.asarray(case.body) > 0
    tissue = body & (nodules == 0) & ~lungs
    found["body_spread_hu"] = float(hu[body].std()) if body.any() else 0.0
    found |= tissue_measures(hu, tissue, "tissue") | tissue_measures(hu, lungs, "lung")
    found |= shares(hu, lungs, tissue) | noise_measures(hu, inner(tissue)) | seam_measures(hu, body, grid)
    found |= anatomy.measure(hu, np.asarray(case.lungs), nodules, body, spacing_mm)
    return found | nodule_measures(hu, nodules, lungs, spacing_mm)


def inner(mask: np.ndarray) -> np.ndarray:
    """Voxels of ``mask`` with all their 26 neighbours in it: they hold nothing of the next tissue."""
    return anatomy.shrunk(mask, 1)


def tissue_measures(hu: np.ndarray, mask: np.ndarray, name: str) -> dict[str, float]:
    """Median and interquartile range of the inner voxels of ``mask``."""
    values = hu[inner(mask)]
    if len(values) < FEWEST_VOXELS:
        return {}
    low, middle, high = (float(q) for q in np.percentile(values, (25, 50, 75)))
    return {f"{name}_hu": middle, f"{name}_spread_hu": high - low}


def shares(hu: np.ndarray, lungs: np.ndarray, tissue: np.ndarray) -> dict[str, float]:
    """Lung shape: how much of the lungs is solid, how much of the body outside them is aerated."""
    parts = {"lung_solid": (lungs, hu > AERATED_HU), "tissue_aerated": (tissue, hu < AERATED_HU)}
    return {name: float(odd[mask].mean()) for name, (mask, odd) in parts.items() if mask.sum() >= FEWEST_VOXELS}


def noise_measures(hu: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Strength and grain of the noise in ``mask``: what is left when the mean of each voxel's cube of 27 is taken away.

    Edges of vessels and fat are few and large: the median of the absolute values and the signs of neighbours (for
    normal variables of correlation r they agree with probability 1/2 + arcsin(r) / pi) hardly see them.
    """
    if mask.sum() < FEWEST_VOXELS:
        return {}
    rest = hu - ndimage.uniform_filter(hu, 3)
    noise = float(np.median(np.abs(rest[mask]))) / 0.6745 * (27 / 26) ** 0.5  # of the normal noise that leaves this
    signs, products, pairs = np.sign(rest).astype(np.int8), 0, 0
    for axis in range(3):
        sign, inside = np.moveaxis(signs, axis, 0), np.moveaxis(mask, axis, 0)
        both = inside[1:] & inside[:-1]
        products += int((sign[1:] * sign[:-1])[both].sum())
        pairs += int(both.sum())
    return {"noise_hu": noise, "noise_correlation": math.sin(math.pi / 2 * products / pairs) if pairs else 0.0}


def nodule_measures(hu: np.ndarray, nodules: np.ndarray, lungs: np.ndarray, spacing_mm: float) -> dict[str, float]:
    """Is each nodule where its mask says? Darkest median, spread within nodules, weakest contrast to the lung around.

    ``nodules`` holds indices, ``lungs`` (bool) no voxel of a nodule.
    """
    reach = math.ceil(SHELL_MM / spacing_mm) + 1
    medians, centred, contrasts = [], [], []
    for index, box in enumerate(ndimage.find_objects(nodules), start=1):
        if box is None or (nodules[box] == index).sum() < FEWEST_NODULE_VOXELS:
            continue
        wider = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
        inside = nodules[wider] == index
        away = ndimage.distance_transform_edt(~inside)  # voxels
        shell = (away > 1) & (away <= max(SHELL_MM / spacing_mm, 1) + 1) & lungs[wider]
        medians.append(float(np.median(hu[wider][inside])))
        centred.append(hu[wider][inside] - medians[-1])
        if shell.sum() >= FEWEST_SHELL_VOXELS:
            contrasts.append(medians[-1] - float(np.median(hu[wider][shell])))
    found = {"nodule_contrast_hu": min(contrasts)} if contrasts else {}
    if medians:
        low, high = np.percentile(np.concatenate(centred), (25, 75))
        found |= {"nodule_hu": min(medians), "nodule_spread_hu": float(high - low)}
    return found


# --------------------------------------------------------------------------------------------------------------- seams


def seam_measures(hu: np.ndarray, body: np.ndarray, grid: Grid) -> dict[str, float]:
    """The geometric mean of the seam ratios of all planes, and the largest step. Nothing where patches never meet."""
    logs, steps = seam_logs(hu, body, grid), seam_steps(hu, body, grid)
    return ({"seam_ratio": math.exp(np.mean(logs))} if logs else {}) | ({"seam_step_hu": max(steps)} if steps else {})


def seam_logs(volume: np.ndarray, body: np.ndarray, grid: Grid) -> list[float]:
    """The logarithm of the seam ratio of each border plane.

    *Seam ratio*: the mean |difference| of neighbouring voxels across a plane where patches end, divided by the same on
    the two planes about half a patch before and behind it, on the same voxels of the body. It is 1 without seams, and
    since anatomy also has a say, that of real CTs stands beside it.
    """
    logs = []
    for values, inside, planes in _along_axes(volume, body, grid):
        for plane, *far in planes:
            if not far:
                continue
            where = np.logical_and.reduce([inside[p] & inside[p - 1] for p in (plane, *far)])
            if where.sum() >= FEWEST_VOXELS:
                border, *others = (float(np.abs(_step(values, p)[where]).mean()) for p in (plane, *far))
                if border > 0 and sum(others) > 0:
                    logs.append(math.log(border / np.mean(others)))
    return logs


def seam_steps(volume: np.ndarray, body: np.ndarray, grid: Grid) -> list[float]:
    """How far each border plane as a whole is a step: |median over its voxels of the difference across it, minus the
    mean of those just before and behind|. Anatomy has edges, but not all along such a plane."""
    steps = []
    for values, inside, planes in _along_axes(volume, body, grid):
        for plane, *_ in planes:
            if 2 <= plane <= len(values) - 2:
                where = inside[plane - 2 : plane + 2].all(axis=0)
                if where.sum() >= FEWEST_VOXELS:
                    before, across, behind = (_step(values, p)[where] for p in (plane - 1, plane, plane + 1))
                    steps.append(abs(float(np.median(across - (before + behind) / 2))))
    return steps


def _along_axes(volume: np.ndarray, body: np.ndarray, grid: Grid) -> Iterator[tuple[np.ndarray, np.ndarray, list]]:
    """For each axis the volume and the body with that axis first, and its border planes."""
    patch, multiple = grid.patch_voxels, grid.multiple
    padded = padded_shape(volume.shape, patch, multiple)
    for axis in range(3):
        starts = axis_starts(padded[axis], patch, patch_stride(patch, grid.overlap, multiple))
        planes = border_planes(starts, patch, volume.shape[axis])
        yield np.moveaxis(volume, axis, 0), np.moveaxis(body, axis, 0), planes


def _step(values: np.ndarray, plane: int) -> np.ndarray:
    """Voxels behind ``plane`` minus those before it."""
    return values[plane].astype(np.float32) - values[plane - 1]


def border_planes(starts: list[int], patch: int, length: int) -> list[tuple[int, ...]]:
    """Planes p (between voxels p - 1 and p) where a patch begins or ends, each with two planes p - d and p + d that are
    not near any border, d as close to half a patch as can be; alone if there are none."""
    border = sorted({p for start in starts for p in (start, start + patch) if 0 < p < length})
    clear = {p for p in range(1, length) if all(abs(p - b) > NEAR_VOXELS for b in border)}
    found = []
    for p in border:
        distances = [d for d in range(1, patch) if p - d in clear and p + d in clear]
        d = min(distances, key=lambda d: abs(d - patch / 2), default=0)
        found.append((p, p - d, p + d) if d else (p,))
    return found


# ------------------------------------------------------------------------------------------------------- ranges, faults


@dataclass(frozen=True)
class Spread:
    """Median of a measure on its scale, and the distances from it that count as one width, below and above."""

    middle: float
    below: float
    above: float


def scaled(name: str, values) -> np.ndarray:
    """The values on the measure's scale: their logarithm where it spreads by factors."""
    rule = MEASURES[name]
    return np.log(np.maximum(values, rule.least)) if rule.log else np.asarray(values, dtype=float)


def spread_of(name: str, values: np.ndarray) -> Spread:
    """Of the real cases' ``values`` ``[n]``. One width is never less than the least difference that counts."""
    rule = MEASURES[name]
    low, middle, high = np.quantile(scaled(name, values), QUANTILES)
    least = math.log1p(rule.least / math.exp(middle)) if rule.log else rule.least
    return Spread(float(middle), float(max(middle - low, least)), float(max(high - middle, least)))


def widths_away(name: str, value: float, spread: Spread) -> float:
    """How many widths a value lies from the median; none if it is on the side where nothing is wrong."""
    away = float(scaled(name, value)) - spread.middle
    if (MEASURES[name].highest if away > 0 else MEASURES[name].lowest) is not None:
        return 0.0
    return away / spread.above if away > 0 else -away / spread.below


def value_range(name: str, spread: Spread, width: float) -> tuple[float, float]:
    """The values that are at most ``width`` widths away. On a scale of factors all below the least are the same."""
    rule = MEASURES[name]
    low, high = spread.middle - width * spread.below, spread.middle + width * spread.above
    if rule.log:
        low, high = (math.exp(low) if low > math.log(rule.least) else 0.0), math.exp(high)
    return (
        float(low if rule.lowest is None else rule.lowest),
        float(high if rule.highest is None else rule.highest),
    )


def left_out_scores(values: Mapping[str, Mapping[str, float]]) -> list[float]:
    """For each case of ``{measure: {case: value}}`` its largest distance, in widths, from the median of the others."""
    scores: dict[str, float] = {}
    for name, of_case in values.items():
        numbers = np.array(list(of_case.values()))
        for i, (case, value) in enumerate(of_case.items()):
            away = widths_away(name, value, spread_of(name, np.delete(numbers, i)))
            scores[case] = max(scores.get(case, 0.0), away)
    return list(scores.values())


def calibrated_width(scores: list[float], false_rejections: float) -> float:
    """The width that a new real case exceeds with probability ``false_rejections``; at least 1.

    The k-th smallest of n scores is exceeded with probability 1 - k / (n + 1); n < 1 / ``false_rejections`` - 1 scores
    cannot promise so little, and the largest is taken.
    """
    rank = math.ceil((1 - false_rejections) * (len(scores) + 1))
    return max(sorted(scores)[min(rank, len(scores)) - 1], 1.0)


def family_of(name: str) -> str:
    return next(family for family, rules in FAMILIES.items() if name in rules)


def family_widths(judged: Mapping[str, Mapping[str, float]], false_rejections: float) -> dict[str, float]:
    """The width of each family that has a judged measure; they share ``false_rejections`` evenly."""
    scores = {
        family: left_out_scores({name: values for name, values in judged.items() if name in rules})
        for family, rules in FAMILIES.items()
    }
    present = {family: found for family, found in scores.items() if found}
    return {family: calibrated_width(found, false_rejections / len(present)) for family, found in present.items()}


def reference(measured: Mapping[str, Mapping[str, float]], false_rejections: float) -> dict:
    """Ranges from the measures of the train cases, ``{case: measures}``, and those measures themselves."""
    values = {name: {c: m[name] for c, m in measured.items() if name in m} for name in MEASURES}
    judged = {name: v for name, v in values.items() if len(v) >= FEWEST_CASES and name != "finite"}
    width = family_widths(judged, false_rejections)
    measures = {}
    for name, rule in MEASURES.items():
        low, high = None, None
        if name == "finite":
            low, high = 1.0, 1.0
        elif name in judged:
            numbers = np.array(list(judged[name].values()))
            low, high = value_range(name, spread_of(name, numbers), width[family_of(name)])
        measures[name] = {"what": rule.what, "low": low, "high": high, "cases": len(values[name])}
    return {
        "about": "low and high lie the family's 'width' times as far from the train cases' median as their 5 % and 95 "
        f"% quantiles; a measure that fewer than {FEWEST_CASES} cases have is not judged (null)",
        "false_rejections": max(false_rejections, max(len(width), 1) / (len(measured) + 1)),
        "width": width,
        "measures": measures,
        "values": values,
    }


def faults(measures: Mapping[str, float], reference: Mapping) -> list[dict]:
    """Measures outside their range: ``measure``, ``value``, ``low``, ``high`` and the ``reason`` in words."""
    found, ranges = [], reference["measures"]
    for name, value in measures.items():
        low, high = ranges[name]["low"], ranges[name]["high"]
        if low is not None and not low <= value <= high:  # also catches NaN
            reason = f"{ranges[name]['what']}, is {value:.4g}; real train cases: {range_in_words(name, low, high)}"
            found.append({"measure": name, "value": value, "low": low, "high": high, "reason": reason})
    return found


def range_in_words(name: str, low: float, high: float) -> str:
    """The range as a person would say it: ends that nothing can exceed are not named."""
    rule = MEASURES[name]
    if rule.highest is not None:
        return f"at least {low:.4g}"
    return f"at most {high:.4g}" if rule.lowest is not None else f"{low:.4g} to {high:.4g}"


# ------------------------------------------------------------------------------------------------------------ attempts


@dataclass(frozen=True, eq=False)
class Attempt:
    """One made volume, its measures and what is wrong with it."""

    number: int  # 0 first
    case: Case
    measures: dict[str, float]
    faults: list[dict]


def attempt_seed(seed: int, attempt: int) -> int:
    """The seed of the noise of a volume's ``attempt``; of the first it is the volume's own ``seed``."""
    if attempt == 0:
        return seed
    return seed_of(seed, "attempt", attempt)


def attempts(
    make: Callable[[int], Case], examine: Callable[[Case], dict[str, float]], reference: Mapping, tries: int
) -> Iterator[Attempt]:
    """Make a volume (``make(attempt)``) until one has no fault, at most ``1 + tries`` times; the last one is kept."""
    for number in range(1 + tries):
        case = make(number)
        measures = examine(case)
        attempt = Attempt(number, case, measures, faults(measures, reference))
        yield attempt
        if not attempt.faults:
            return


# ------------------------------------------------------------------------------------------------- what is written down

REJECTED_COLUMNS = ["volume", "attempt", "seed", "kept", "measure", "value", "low", "high", "reason"]
RATE_COLUMNS = ["measure", "what", "low", "high", "train_median", "accepted_median", "judged", "rejected", "kept"]
ANY = "any"


def record(row: Mapping[str, str], attempt: Attempt, tries: int) -> dict:
    """All that is to be known of an attempt at the volume that ``row`` of the conditions describes."""
    return {
        "volume": row["volume"],
        "attempt": attempt.number,
        "seed": attempt_seed(int(row["seed"]), attempt.number),
        "kept": not attempt.faults or attempt.number == tries,
        "faults": attempt.faults,
        "measures": attempt.measures,
        "not_measured": [name for name in MEASURES if name not in attempt.measures],
    }


def rejected_rows(records: list[dict]) -> list[dict]:
    """One row per fault; ``kept`` 1: it was the last attempt, and is in the set all the same."""
    return [r | {"kept": int(r["kept"])} | fault for r in records for fault in r["faults"]]


def middle_slices(case: Case) -> dict[str, np.ndarray]:
    """Three slices of the CT (HU) and of the nodule mask through the largest nodule, or the middle: a small picture."""
    largest = max(case.about.get("nodules", []), key=lambda fact: fact["volume_mm3"], default=None)
    box = largest["box"] if largest else [[0, n] for n in case.ct.shape]
    slices = {}
    for axis, (start, stop) in enumerate(box):
        slices[f"ct_{axis}"] = np.take(case.ct, (start + stop) // 2, axis)
        slices[f"nodules_{axis}"] = np.take(case.nodules, (start + stop) // 2, axis) > 0
    return slices


def rates(records: list[dict], reference: Mapping) -> list[dict]:
    """How many of a set's attempts were judged, rejected, and kept all the same: for any reason, then by measure."""
    rows = [
        {"measure": ANY, "what": "made volumes, by any measure", "judged": len(records)} | _counts(records, None)
        | dict.fromkeys(("low", "high", "train_median", "accepted_median"))
    ]  # fmt: skip
    for name, of_measure in reference["measures"].items():
        values = [r["measures"][name] for r in records if name in r["measures"]]
        accepted = [r["measures"][name] for r in records if name in r["measures"] and not r["faults"]]
        rows.append({
            "measure": name, "what": of_measure["what"], **_told(name, of_measure),
            "train_median": _median(list(reference["values"][name].values())), "accepted_median": _median(accepted),
            "judged": 0 if of_measure["low"] is None else len(values), **_counts(records, name),
        })  # fmt: skip
    return rows


def _told(name: str, of_measure: Mapping) -> dict[str, float | None]:
    """Both ends of the range; None for one towards which nothing is wrong."""
    no_end = {"low": MEASURES[name].lowest, "high": MEASURES[name].highest}
    return {end: of_measure[end] if no_end[end] is None else None for end in no_end}


def _counts(records: list[dict], name: str | None) -> dict[str, int]:
    """Attempts with a fault (of measure ``name``), and how many of them are in the set."""
    found = [r for r in records if any(name in (None, fault["measure"]) for fault in r["faults"])]
    return {"rejected": len(found), "kept": sum(r["kept"] for r in found)}


def _median(values: list[float]) -> float | None:
    return float(np.median(values)) if values else None
