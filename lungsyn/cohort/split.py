"""Train, validation and test by patient: seeded, and independent of the order in which patients are listed.

With *folds* there is a split for each: every patient is tested in one fold, and in each of the others it is a train or
a validation patient (see `lungsyn.folds`).
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from lungsyn.errors import InputError
from lungsyn.hosts import is_host
from lungsyn.settings.cohort import Split

SPLITS = ("train", "validation", "test")


def folds_of(split: Split) -> list[int] | list[None]:
    """The folds, from 1; of one split there is one, which has no number."""
    return list(range(1, split.folds + 1)) if split.folds else [None]


def chosen(rows: Sequence[Mapping], splits: Iterable[str], percent: int) -> list[Mapping]:
    """The rows of these splits; of the train patients those in the training set of ``percent`` of them."""
    joins = training_set(rows, percent)
    return [row for row in rows if row["split"] in splits and (row["split"] != "train" or joins(row))]


def assign_all(patients: Iterable[tuple[str, str]], wanted: Split, seed: int) -> dict[str, dict[int | None, str]]:
    """The split of every patient in each fold: see `assign` and `assign_folds`."""
    if wanted.folds:
        return assign_folds(patients, wanted.folds, wanted.validation, seed)
    return {name: {None: split} for name, split in assign(patients, wanted, seed).items()}


def assign_folds(
    patients: Iterable[tuple[str, str]], folds: int, validation: float, seed: int
) -> dict[str, dict[int | None, str]]:
    """The split of every patient in each fold, from 1. Each is tested once; of the others of a fold so many are for
    validation that they are a share ``validation`` of all. Raises InputError for a given split, or too few patients."""
    split = given_splits(patients)
    if any(split.values()):
        raise InputError(
            "cohort.split has folds, in which every patient is tested once, but the dataset gives patients a split: "
            "take the column 'split' out of cases.tsv, or ask for no folds"
        )
    if len(split) < folds or len(split) - -(-len(split) // folds) < 2:  # one for train, one for validation
        raise InputError(f"{len(split)} patients cannot fill {folds} folds: add patients, or lower cohort.split.folds")
    ordered = sorted(split, key=lambda name: order(seed, name))
    tested = {name: place % folds + 1 for place, name in enumerate(ordered)}
    found: dict[str, dict[int | None, str]] = {name: {fold: "test"} for name, fold in tested.items()}
    for fold in range(1, folds + 1):
        others = sorted(
            (name for name in split if tested[name] != fold), key=lambda name: order(seed, name, f"fold {fold}")
        )
        count = min(max(1, round(validation * len(split))), len(others) - 1)
        for place, name in enumerate(others):
            found[name][fold] = "validation" if place < count else "train"
    return found


def assign(patients: Iterable[tuple[str, str]], fractions: Split, seed: int) -> dict[str, str]:
    """The split of every patient. ``patients``: (patient, split given by the dataset or ""), repeats allowed.

    Given splits are kept; the rest is shuffled by a digest of seed and name and dealt so that the whole has the
    wanted fractions as nearly as the given ones allow (largest remainder), a split with a fraction above zero getting
    at least one patient. Raises InputError for a patient with two given splits, an unknown split, or too few patients.
    """
    split = given_splits(patients)
    free = sorted((name for name, given in split.items() if not given), key=lambda name: order(seed, name))
    wanted = _counts(len(split), fractions)
    fixed = {name: sum(given == name for given in split.values()) for name in SPLITS}
    room = [max(wanted[name] - fixed[name], 0) for name in SPLITS]
    dealt = _largest_remainder(len(free), room if sum(room) else [wanted[name] for name in SPLITS])
    dealt = _at_least_one(dealt, [wanted[name] > 0 and fixed[name] == 0 for name in SPLITS])
    names = [name for name, count in zip(SPLITS, dealt, strict=True) for _ in range(count)]
    split |= dict(zip(free, names, strict=True))
    empty = [name for name in SPLITS if wanted[name] and name not in split.values()]
    if empty:
        raise InputError(f"split {', '.join(empty)} has no patient: give it some in cases.tsv, or add patients")
    return split


def given_splits(patients: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The split that the dataset gives each patient, or "". Raises InputError for two, or an unknown one."""
    split = {}
    for patient, given in patients:
        if given not in ("", *SPLITS):
            raise InputError(
                f"a patient's split is {given!r}: it must be one of {', '.join(SPLITS)}, or empty",
                detail=f"patient {patient!a}",
            )
        if given and split.get(patient, "") not in ("", given):
            raise InputError(
                f"a patient is in two splits ({split[patient]}, {given}): all cases of a patient must share one",
                detail=f"patient {patient!a}",
            )
        split[patient] = given or split.get(patient, "")
    return split


def train_ranks(patients: Iterable[str], seed: int) -> dict[str, int]:
    """The order, 1 to n, in which train patients join as the training set grows: every size holds the smaller ones."""
    ordered = sorted(set(patients), key=lambda name: order(seed, name, "train"))
    return {name: rank for rank, name in enumerate(ordered, start=1)}


def within(rank: int, patients: int, percent: int) -> bool:
    """Whether the train patient of this rank is in the training set of ``percent`` of all ``patients``."""
    return rank <= max(1, round(patients * percent / 100))


def training_set(rows: Iterable[Mapping], percent: int) -> Callable[[Mapping], bool]:
    """Whether a train row of ``cohort.tsv`` is in the training set of ``percent`` of the train patients.

    Patients who have hosts only are counted by themselves, so that hosts change nobody's training set of marked cases;
    of them as many percent are taken. A host of another patient is where its patient is.
    """
    train = [row for row in rows if row["split"] == "train"]
    marked = {row["patient"] for row in train if not is_host(row)}
    others = {row["patient"] for row in train} - marked
    return lambda row: within(int(row["train_rank"]), len(marked if row["patient"] in marked else others), percent)


def order(seed: int, patient: str, purpose: str = "split") -> bytes:
    """A key to sort by that shuffles: the same for the same seed, name and purpose, whoever else is there."""
    return hashlib.sha256(f"{seed}/{purpose}/{patient}".encode("utf-8", "surrogatepass")).digest()


def _counts(n_patients: int, fractions: Split) -> dict[str, int]:
    """How many patients each split should have: largest remainder, at least one where the fraction is above zero."""
    weights = [getattr(fractions, name) for name in SPLITS]
    n_splits = sum(weight > 0 for weight in weights)
    if n_patients < n_splits:
        raise InputError(
            f"{n_patients} patients cannot fill {n_splits} splits (those with the same image are one): add patients"
        )
    counts = _at_least_one(_largest_remainder(n_patients, weights), [weight > 0 for weight in weights])
    return dict(zip(SPLITS, counts, strict=True))


def _at_least_one(counts: list[int], needy: list[bool]) -> list[int]:
    """``counts`` with one moved from the fullest to each needy place that has none, while there is one to spare."""
    for i, needs in enumerate(needy):
        if needs and counts[i] == 0 and max(counts) > 0:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts


def _largest_remainder(total: int, weights: list[float]) -> list[int]:
    """``total`` as whole numbers in proportion to ``weights`` (Hamilton's method); ties go to the earlier one."""
    quotas = [total * weight / sum(weights) for weight in weights]
    counts = [int(quota + 1e-9) for quota in quotas]
    by_remainder = sorted(range(len(weights)), key=lambda i: counts[i] - quotas[i])
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts
