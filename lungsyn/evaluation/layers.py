"""How much each layer of chance adds to an arm's difference: patients, the segmenter's seed, the set, the fold.

A variance component is what one more draw of that layer would move. Replicates draw seed and set together, so that what
a set (and its generator, where replicates draw it) does is what is left of an arm's trainings when those of arms that
draw none are taken off. Each is known from few draws: they say where more of them would help, and are no claims.
"""

from collections.abc import Collection, Mapping

import numpy as np

from lungsyn.evaluation.paired import Trainings, beyond_folds, parts_of, variance_over_patients, variance_within_folds

PATIENTS, SEED, FOLD = "patients", "segmenter's seed", "fold"
LAYER_COLUMNS = ["arm", "layer", "sd", "share"]


def layer_rows(
    means: Mapping[str, np.ndarray], cases: np.ndarray, trainings: Mapping[str, Trainings], drawn: Collection[str],
    layer: str,
) -> list[dict]:  # fmt: skip
    """Rows of ``LAYER_COLUMNS`` of every arm but the first, the benchmark.

    ``means``: each patient's mean of each arm ``[p]``; ``cases`` of each patient ``[p]``; ``trainings`` as of
    `paired.spread_of`; ``drawn``: the arms whose replicates draw a set anew, called ``layer``. ``sd`` is what one draw
    does to the difference in Dice: of a patient, of the mean by one training, of the mean in one fold. ``share`` is of
    the variance of the mean difference.
    """
    benchmark, *others = means
    alone = [one_training(arm) for name, arm in trainings.items() if name not in drawn]
    seed = float(np.mean(alone)) if alone else None
    return [
        {"arm": name, **row}
        for name in others
        for row in _of_arm(means[name] - means[benchmark], cases, (trainings[name], trainings[benchmark]), seed,
                           layer if name in drawn else None)
    ]  # fmt: skip


def one_training(arm: Trainings) -> float:
    """Variance of the mean Dice from one training of an arm to the next (of one in each fold)."""
    return float(arm.variance) * arm.count


def _of_arm(
    difference: np.ndarray, cases: np.ndarray, pair: tuple[Trainings, Trainings], seed: float | None, layer: str | None
) -> list[dict]:
    weights, fold = cases / cases.sum(), pair[0].fold
    within, _ = variance_within_folds(difference, cases, pair)
    by_training = float(pair[0].variance + pair[1].variance)
    by_set = max(one_training(pair[0]) - seed, 0.0) if layer and seed is not None else 0.0
    found = {
        PATIENTS: max(float(variance_over_patients(difference, cases, fold)) - sum(float(a.noise) for a in pair), 0.0),
        SEED if seed is not None or not layer else f"{SEED} and {layer}": by_training - by_set / pair[0].count,
    }
    one = {PATIENTS: (weights**2).sum(), **dict.fromkeys(found.keys() - {PATIENTS}, 2 / pair[0].count)}
    if layer and seed is not None:
        found[layer], one[layer] = by_set / pair[0].count, 1 / pair[0].count
    if fold is not None:
        found[FOLD] = max(float(beyond_folds(difference, cases, pair[0], within)[0]), 0.0)
        one[FOLD] = sum(weights[part].sum() ** 2 for part in parts_of(fold, len(cases)))
    total = sum(found.values())
    return [
        {"layer": name, "sd": float(np.sqrt(variance / one[name])), "share": variance / total if total else 0.0}
        for name, variance in found.items()
    ]
