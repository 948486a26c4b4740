"""A trained generator that membership did not give away, as a folder for a repository: its model file, a model card.

The model file has the weights, the settings and what made it, without the names and digests of the train cases."""

from collections.abc import Mapping
from pathlib import Path

from lungsyn import checkpoint
from lungsyn.audit.checks import PASS
from lungsyn.audit.verdict import membership_check
from lungsyn.errors import InputError
from lungsyn.models import load_generator
from lungsyn.provenance import model_facts
from lungsyn.registry import family
from lungsyn.settings.audit import Thresholds
from lungsyn.settings.section import part
from lungsyn.sharing import findings
from lungsyn.sharing.folder import new_folder, write_card, write_checksums, write_zenodo
from lungsyn.sharing.modelcard import modelcard
from lungsyn.sharing.study import RUN_AGAIN, Study
from lungsyn.sharing.terms import Terms, for_hugging_face
from lungsyn.sharing.writing import TAGS, as_yaml
from lungsyn.volume.files import read_json
from lungsyn.volume.tables import read_table

MODEL = "model.safetensors"
# Of what a model file says: all else may name patients, as the lists of its train cases and their digests do.
KEPT = ("generator", "of", "seed", "images_seen", "best_loss", "precision", "recipe", "code", "versions", "real")


def share_model(study: Study, name: str, size: int, terms: Terms, out: Path) -> dict:
    """Write the model of the generator ``name`` to the new folder ``out``; returns what the model card says. Raises
    InputError with the reason where it was not attacked or did not pass, or where ``out`` exists."""
    if name not in study.config.generators:
        raise InputError(f"the study has no generator {name!r}, only {', '.join(study.config.generators)}")
    sentence = attack_of(study, name, size)
    path = study.model(name, size)
    told = study.about(terms) | _model(study, path) | {
        "title": f"{study.name}: generator of synthetic CT with lung nodules, {name}",
        "sentence": sentence, "sets": _sets(study, name, size),
    }  # fmt: skip
    told["summary"] = _summary(told)
    with new_folder(out) as folder:
        _write_model(path, folder / MODEL)
        generator = _loaded(folder / MODEL, told["generator_kind"])
        write_card(folder, front_matter(terms), modelcard(told | {"needs": sorted(generator.needs)}))
        write_zenodo(folder, "other", told["title"], told["summary"], terms)
        write_checksums(folder)
    return told


def attack_of(study: Study, name: str, size: int) -> str:
    """What the attack by membership found of a generator, in a sentence. Raises InputError where there was none, one on
    another model than the present one, or one that did not pass."""
    kind = study.config.generators[name].kind
    if not family("generators", kind).attackable:
        raise InputError(
            f"{name} was never attacked: the loss of a generator of kind {kind!r} cannot be asked for, so nothing says "
            "whether its model gives patients away"
        )
    path = study.result(f"audit/membership/{name}/{size}.tsv", f"{name} was never attacked at {size} %")
    rows = read_table(path, ["case", "patient", "group", "log_loss"])
    trained_on = set(model_facts(study.model(name, size))["cases"])
    if any((row["case"] in trained_on) != (row["group"] == "learned") for row in rows):
        raise InputError(f"{path} is about another model than the present one: {RUN_AGAIN}")
    check = membership_check(rows, part(study.config.audit, Thresholds))
    if check.result != PASS:
        raise InputError(
            f"the verdict on the model of {name} is {check.result}, so it is not shared:\n  {check.sentence}\nTrain it "
            "on more patients, or for a shorter time"
        )
    return check.sentence


def front_matter(terms: Terms) -> dict:
    """The metadata of a model on Hugging Face."""
    return for_hugging_face(terms.licence) | {"library_name": "lungsyn", "tags": TAGS}


def _model(study: Study, path: Path) -> dict:
    """What the file of a model says of it."""
    facts = model_facts(path)
    kind = facts["generator"]["kind"]
    settings = {"generator": facts["generator"], "synthesis": study.settings["synthesis"]}
    return {
        "model": facts, "watching": findings.watching(facts), "learned": study.learned(facts), "generator_kind": kind,
        "generator_words": findings.words_of("generators", kind), "settings": as_yaml(settings),
        "synthesis": {key: value for key, value in settings["synthesis"].items() if key != "volumes_per_job"},
    }  # fmt: skip


def _sets(study: Study, name: str, size: int) -> list[dict]:
    """What was found of each set that the generator made at this size."""
    found = []
    for set_name in study.used(size):
        chosen = study.config.sets[set_name]
        if chosen.generator == name:
            total, _ = findings.quality_rows(study, set_name, size)
            found.append({
                "name": set_name, "masks": findings.words_of("masks", chosen.conditions.kind), "quality": total,
                "verdict": read_json(study.result(f"audit/{set_name}/{size}/verdict.json")),
                "fidelity": findings.fidelity_rows(study, set_name, size),
                "utility": findings.utility(study, set_name, size),
            })  # fmt: skip
    return found


def _write_model(path: Path, out: Path) -> None:
    """The same weights and settings, with no more of their description than may leave."""
    tensors, about = checkpoint.load(path)
    checkpoint.save(out, tensors, {key: about[key] for key in KEPT if key in about})


def _loaded(path: Path, kind: str):
    try:
        return load_generator(path)
    except (InputError, KeyError) as error:
        raise InputError(
            f"a model of kind {kind!r} cannot be loaded without the names of its train cases ({error!r}): its family "
            "must need no more of the file's description than its settings"
        ) from error


def _summary(told: Mapping) -> list[str]:
    """What a stranger must know first."""
    return [
        "A generator of synthetic CT with lung nodules: masks of nodules, lungs and body in, a CT that fits them out.",
        f"It learned from {told['learned']}.",
        "An attack by its loss could not tell the cases that it learned from. It cannot prove that no attack can.",
        "It is for research, not for diagnosis.",
    ]
