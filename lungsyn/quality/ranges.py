"""From the measures of real train cases to ranges, and what of a case lies outside them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lungsyn.quality.measures import FAMILIES, MEASURES

FEWEST_CASES = 5  # of the train split that have a measure, for it to have a range
QUANTILES = (0.05, 0.5, 0.95)
BY_RULE = ("finite", "nodules")  # their ranges do not come from how real cases spread


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
    judged = {name: v for name, v in values.items() if len(v) >= FEWEST_CASES and name not in BY_RULE}
    width = family_widths(judged, false_rejections)
    measures = {}
    for name, rule in MEASURES.items():
        low, high = None, None
        if name == "finite":
            low, high = 1.0, 1.0
        elif name == "nodules" and values[name]:
            low, high = 1.0, rule.highest
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
