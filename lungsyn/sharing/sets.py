"""A synthetic set that passed its audit, as a folder for a repository: NIfTI, DICOM, a data sheet, checksums."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lungsyn.cohort.export import refuse_unless_passed, write_dicom, write_nnunet
from lungsyn.cohort.preprocess import SAME_SPACING
from lungsyn.errors import InputError
from lungsyn.provenance import file_digest, model_facts
from lungsyn.registry import family
from lungsyn.settings.study import source_of
from lungsyn.sharing import findings
from lungsyn.sharing.datasheet import datasheet
from lungsyn.sharing.folder import new_folder, write_card, write_checksums, write_zenodo
from lungsyn.sharing.preview import plot_preview
from lungsyn.sharing.study import RUN_AGAIN, Study
from lungsyn.sharing.terms import Terms, for_hugging_face
from lungsyn.sharing.writing import TAGS, as_yaml
from lungsyn.volume.files import Case, open_case, read_json
from lungsyn.volume.tables import write_table

Cases = list[tuple[str, Case]]
FIELDS_OF_VIEW = {"chest": "whole chests", "part": "cut-outs, not whole chests"}
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (float("inf"), "10K<n<100K"))  # as Hugging Face names them
FROM_CASES = {
    None: "They are made from no case.",
    "train": "What they need of real cases is taken from those that the generator learned from.",
    "validation": "What they need of real cases is taken from other patients than the generator learned from.",
}


def share_set(study: Study, name: str, size: int, terms: Terms, out: Path) -> dict:
    """Write the set ``name`` to the new folder ``out``; returns what the data sheet says. Raises InputError with the
    reason where the set did not pass, is not what was audited, keeps patients' CT, or where ``out`` exists."""
    if name not in study.used(size):
        used = ", ".join(study.used(size)) or "none"
        raise InputError(f"no arm of the study uses a set {name!r} at size {size}, so there is none; sets: {used}")
    verdict = read_json(study.result(f"audit/{name}/{size}/verdict.json"))
    cases = cases_of(study, name, size)
    refuse_unless_passed(verdict, cases)
    if kept := [case for case, opened in cases if opened.about.get("known_case")]:
        raise InputError(f"{kept[0]} keeps the CT of a real patient around its nodules: such a set is not synthetic")
    spacing_mm = study.config.cohort.preprocess.spacing_mm
    cases = [(case, of_no_scanner(opened, spacing_mm)) for case, opened in cases]
    told = study.about(terms) | _origin(study, name, size, cases) | _content(study, cases) | _audit(study, verdict)
    told |= _quality(study, name, size, cases) | {
        "title": f"{study.name}: synthetic CT with lung nodules, set {name}",
        "fidelity": findings.fidelity_rows(study, name, size), "utility": findings.utility(study, name, size),
    }  # fmt: skip
    told["summary"] = _summary(told)
    with new_folder(out) as folder:
        write_nnunet(folder / "nifti", cases)
        write_dicom(folder / "dicom", cases)
        plot_preview(cases, study.name, study.config.study.seed, study.config.figures, folder / "preview.png")
        write_table(folder / "cases.tsv", findings.case_rows(cases), findings.CASE_COLUMNS)
        write_card(folder, front_matter(told["title"], terms, len(cases)), datasheet(told))
        write_zenodo(folder, "dataset", told["title"], told["summary"], terms)
        write_checksums(folder)
    return told


def cases_of(study: Study, name: str, size: int) -> Cases:
    """The cases of a set by name, from the batches that the config has."""
    made = study.results / "synthetic" / study.config.sets[name].generator / name / str(size)
    batches = range(study.config.batches_of(name))
    folders = [file.parent for batch in batches for file in sorted(made.glob(f"{batch}/*/case.json"))]
    return [(folder.name, open_case(folder)) for folder in folders]


def of_no_scanner(case: Case, spacing_mm: float) -> Case:
    """The case with its middle at 0 mm, and with the study's own spacing where its own is nearly that.

    Its masks may have brought along a patient's: where somebody lay, to a fraction of a millimetre, tells who."""
    own_mm = case.space.spacing_mm
    edges_mm = np.where(np.isclose(own_mm, spacing_mm, rtol=SAME_SPACING), spacing_mm, own_mm)
    affine = np.diag([*edges_mm, 1.0])
    affine[:3, 3] = -edges_mm * (np.array(case.ct.shape) - 1) / 2
    return replace(case, affine=affine)


def front_matter(title: str, terms: Terms, count: int) -> dict:
    """The metadata of a data set on Hugging Face; its viewer shows ``cases.tsv``."""
    return for_hugging_face(terms.licence) | {
        "pretty_name": title,
        "task_categories": ["image-segmentation"],
        "tags": TAGS,
        "size_categories": [next(words for limit, words in SIZES if count < limit)],
        "annotations_creators": ["machine-generated"],
        "configs": [{"config_name": "default", "data_files": "cases.tsv"}],
    }


def _origin(study: Study, name: str, size: int, cases: Cases) -> dict:
    """Who made the set from what: generator, masks, settings."""
    chosen, made = study.config.sets[name], cases[0][1].about["made"]
    kind = study.config.generators[chosen.generator].kind
    model = _model(study, chosen.generator, size, cases) if family("generators", kind).trains else {}
    masks = chosen.conditions.model_dump(mode="json")
    own = model.get("generator")
    settings = {"generator": own and without_places(own), "masks": without_places(masks)}
    return {
        "model": model, "made": made, "learned": study.learned(model) if model else "",
        "window_hu": (own or {}).get("window_hu"), "watching": findings.watching(model),
        "generator_kind": kind, "generator_words": findings.words_of("generators", kind),
        "masks_kind": masks["kind"], "masks_words": findings.words_of("masks", masks["kind"]),
        "masks_from": FROM_CASES[source_of(chosen).split], "masks_first": source_of(chosen).gives_masks,
        "settings": as_yaml(settings | {key: made[key] for key in ("synthesis", "quality")}),
    }  # fmt: skip


def without_places(settings: Mapping) -> dict:
    """Settings that say nothing of where files lie on this machine."""
    return {key: value for key, value in settings.items() if not Path(str(value)).is_absolute()}


def _model(study: Study, generator: str, size: int, cases: Cases) -> dict:
    """What the model file says that made the cases. Raises InputError if another one did."""
    path = study.model(generator, size)
    digest = file_digest(path)
    if any(case.about["made"]["inputs"].get("model") != digest for _, case in cases):
        raise InputError(f"the cases were made by another model than {path}: {RUN_AGAIN}")
    return model_facts(path) | {"digest": digest}


def _content(study: Study, cases: Cases) -> dict:
    """How many cases there are, how large, with which nodules."""
    diameters = [fact["diameter_mm"] for _, case in cases for fact in case.about["nodules"]]
    return {
        "count": len(cases), "nodules": len(diameters), "diameters": findings.spread(diameters, 0),
        "voxels": findings.spread_of_each([case.ct.shape for _, case in cases], 0),
        "spacing_mm": findings.spread_of_each([case.space.spacing_mm for _, case in cases], 1),
        "field_of_view": FIELDS_OF_VIEW[study.config.cohort.preprocess.field_of_view],
        "further": sorted({label for _, case in cases for label in case.labels.further}),
    }  # fmt: skip


def _quality(study: Study, name: str, size: int, cases: Cases) -> dict:
    """What quality control said."""
    if "quality" not in cases[0][1].about:
        return {"quality": None, "quality_rows": []}
    total, by_measure = findings.quality_rows(study, name, size)
    return {"quality": total, "quality_rows": by_measure, "tries": cases[0][1].about["made"]["quality"]["tries"]}


def _audit(study: Study, verdict: Mapping) -> dict:
    """What the audit found, and what it could not."""
    return {
        "checks": verdict["checks"],
        "hidden": [row for row in verdict["disguises"] if row["disguise"] in verdict["not_found"]],
        "seen": [row["disguise"] for row in verdict["disguises"] if row["disguise"] not in verdict["not_found"]],
        "held_out": study.patients(*verdict["held_out_splits"]), "audit": as_yaml({"audit": verdict["made"]["audit"]}),
    }  # fmt: skip


def _summary(told: Mapping) -> list[str]:
    """What a stranger must know first."""
    learned = f"a generative model that learned from {told['learned']}" if told["learned"] else "a program"
    return [
        f"{told['count']} synthetic CT volumes ({told['field_of_view']}) with {told['nodules']} lung nodules and their "
        "masks. None of them is an image of a person.",
        f"They were made by {learned}.",
        "An audit looked for copies of real cases in them and found none. It cannot prove that there is none.",
        "They are for training and trying programs, not for diagnosis.",
    ]
