"""What a study found of a set or of a generator, as short rows of text: the tables of a data sheet or a model card."""

import sys
from collections.abc import Iterable, Mapping, Sequence

from lungsyn.evaluation.answer import headline, sentences
from lungsyn.evaluation.comparison import COMPARISON_COLUMNS, ends_text, interval_text, p_text, signed
from lungsyn.evaluation.groups import TEST
from lungsyn.evaluation.scores import read_scores
from lungsyn.quality.attempts import ANY, RATE_COLUMNS
from lungsyn.registry import family
from lungsyn.settings.study import null_arms
from lungsyn.sharing.study import Study
from lungsyn.volume.files import Case, read_json
from lungsyn.volume.tables import read_table

CASE_COLUMNS = ["case", "voxels", "spacing_mm", "nodules", "diameters_mm", "seed", "quality"]
THIS_SET = {True: "this set", False: "this set or another draw of it"}  # by whether replicates all learn from one
NAMES = {"frechet": "Fréchet distance", "kid": "KID", "coverage": "coverage"}


def words_of(seam: str, kind: str) -> str:
    """What a kind is, by the first line of its module's docstring, without saying its name."""
    said = (sys.modules[type(family(seam, kind)).__module__].__doc__ or kind).splitlines()[0]
    before, _, rest = said.partition("the kind ``")
    return (before.rstrip(" ,;:") + rest.partition("``")[2] if rest else said).rstrip(".")


def case_rows(cases: Iterable[tuple[str, Case]]) -> list[dict]:
    """A row (``CASE_COLUMNS``) of each synthetic case; nothing of whose masks it has."""
    return [_case_row(name, case) for name, case in cases]


def _case_row(name: str, case: Case) -> dict:
    quality = case.about.get("quality", {})
    faults = "; ".join(fault["reason"] for fault in quality.get("faults", []))
    diameters = [fact["diameter_mm"] for fact in case.about["nodules"]]
    return {
        "case": name,
        "voxels": " x ".join(map(str, case.ct.shape)),
        "spacing_mm": " x ".join(f"{mm:.4g}" for mm in case.space.spacing_mm),
        "nodules": len(diameters),
        "diameters_mm": " ".join(f"{mm:.1f}" for mm in diameters),
        "seed": quality.get("seed", case.about["made"]["row"]["seed"]),
        "quality": "not judged" if not quality else f"kept though rejected: {faults}" if faults else "accepted",
    }  # fmt: skip


def fidelity_rows(study: Study, name: str, size: int) -> list[dict]:
    """Every measure of a set beside its floor: ``measure``, ``synthetic`` and ``floor`` with intervals, ``ratio``, and
    whether the two are ``unlike``."""
    found = read_json(study.result(f"audit/{name}/{size}/fidelity.json"))
    measures = [
        (f"{words}, {view if view == 'nodule' else f'{view} slices'}", (found["views"][view] or {}).get(key))
        for key, words in NAMES.items() for view in found["views"]
    ]  # fmt: skip
    measures += [(f"HU of {tissue}, distance in HU", (of or {}).get("distance_hu"))
                 for tissue, of in found["tissues"].items()]  # fmt: skip
    measures += [
        ("noise of soft tissue, distance in dB", (found["spectrum"] or {}).get("distance_db")),
        ("likeness of two cases (MS-SSIM)", found["diversity"]["ms_ssim"]),
    ]
    return [_beside_floor(measure, beside) for measure, beside in measures if beside]


def _beside_floor(measure: str, beside: Mapping) -> dict:
    low, high = beside["difference"]["low"], beside["difference"]["high"]
    return {
        "measure": measure, "synthetic": _estimate(beside["synthetic"]), "floor": _estimate(beside["floor"]),
        "ratio": "" if beside["ratio"] is None else f"{beside['ratio']:.2g}",
        "unlike": "not known" if low is None else "no" if low <= 0 <= high else "yes",
    }  # fmt: skip


def _estimate(found: Mapping) -> str:
    ends = "" if found["low"] is None else f" ({found['low']:.3g} to {found['high']:.3g})"
    return f"{found['value']:.3g}{ends}"


def quality_rows(study: Study, name: str, size: int) -> tuple[dict, list[dict]]:
    """How many volumes of a set were made and rejected, and the same by each measure that rejected any."""
    rows = read_table(study.result(f"quality/{name}/{size}.tsv"), RATE_COLUMNS)
    by_measure = [row for row in rows if row["measure"] != ANY and int(row["rejected"])]
    return next(row for row in rows if row["measure"] == ANY), by_measure


def utility(study: Study, name: str, size: int) -> list[dict]:
    """What a set did for each segmenter that was trained with it: the answer's sentences, and a row of each arm."""
    config, found = study.settings, []
    null = null_arms(config["arms"], config["benchmark"]["arm"])
    this = THIS_SET[config["replicates_draw"] == "segmenter"]
    for segmenter in study.config.segmenters:
        arms = study.config.arms_of(segmenter)
        using = [arm for arm in arms if config["arms"][arm]["synthetic"] == name]
        if not using or size not in study.config.sizes_of(segmenter):
            continue
        table = read_scores(study.result(f"comparison/{segmenter}.tsv"), ["segmenter", *COMPARISON_COLUMNS])
        shown = (config["benchmark"]["arm"], *using, *(arm for arm in arms if arm in null))
        tested = {row["arm"]: row for row in table if (row["size"], row["group"]) == (size, TEST)}
        rows = [tested[arm] for arm in shown if arm in tested]
        found.append({
            "segmenter": segmenter, "kind": config["segmenters"][segmenter]["kind"],
            "headline": headline(rows, config), "sentences": sentences(rows, config),
            "rows": [_arm_row(row, config["arms"][row["arm"]], this if row["arm"] in using else "") for row in rows],
        })  # fmt: skip
    return found


def _arm_row(row: Mapping, arm: Mapping, this: str) -> dict:
    return {
        "arm": row["arm"],
        "trained_on": " and ".join(["real cases"] * arm["real"] + [this] * bool(this)),
        "dice": f"{row['mean_dice']:.3f}",
        "difference": signed(row["mean_difference"]),
        "interval": interval_text(row),
        "trainings": ends_text(row["mean_difference"], row["trainings_low"], row["trainings_high"]),
        "p": p_text(row["p_holm"]),
    }


def spread(values: Sequence[float], digits: int) -> str:
    """The least and the largest in words; nothing of none.

    >>> spread([5.04, 12.0], 1)
    '5.0 to 12.0'
    """
    ends = dict.fromkeys(f"{value:.{digits}f}" for value in (min(values), max(values))) if values else ()
    return " to ".join(ends)


def spread_of_each(values: Sequence[Sequence[float]], digits: int) -> str:
    """The same along x, y and z."""
    return " x ".join(spread(of_axis, digits) for of_axis in zip(*values, strict=True))


def watching(model: Mapping) -> str:
    """Which share of its cases gave a generator no gradient, in words; nothing where none. ``model``: its facts."""
    share = (model.get("generator") or {}).get("held_out")
    return f"{100 * share:.3g} %" if share else ""
