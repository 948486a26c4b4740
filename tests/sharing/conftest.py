"""A finished study of a hospital's cases, small: its set and verdict are made by the commands of the workflow, from a
model of random weights; scores and what the audit measured are made up, so that the set passes."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lungsyn import checkpoint, cli
from lungsyn.audit import floor
from lungsyn.audit.membership import COLUMNS
from lungsyn.audit.outlines import OUTLINE
from lungsyn.audit.probes import COLUMNS as PROBE_COLUMNS
from lungsyn.audit.probes import KINDS, PART
from lungsyn.audit.specimens import BIN_EDGES_HU, TISSUES, VIEWS, Measured
from lungsyn.cli.arguments import attempts
from lungsyn.cohort import private
from lungsyn.evaluation.comparison import COMPARISON_COLUMNS, compare
from lungsyn.provenance import model_facts, note
from lungsyn.quality.attempts import RATE_COLUMNS, rates
from lungsyn.settings.audit import Thresholds
from lungsyn.settings.checking import check, read
from lungsyn.settings.section import as_json, part
from lungsyn.settings.study import Config
from lungsyn.volume.files import data_digests, read_json, write_case, write_json
from lungsyn.volume.tables import write_table
from tests.audit.test_verdict import neighbours, spread
from tests.conftest import ROOT, make_case, network_of
from tests.evaluation.conftest import _row
from tests.test_why import write_record

TRAIN, UNSEEN = 12, 13
RAW = "SMITH-JOHN"  # in the names of files and patients that must never leave
OF = ("--of", "generator=patch_ddpm", "set=untargeted", "size=100")


def config_of(generator_settings) -> Config:
    raw = read([ROOT / "config.yaml"])
    raw["study"]["name"] = "a {hospital} | study"
    raw["cohort"] |= {"dataset": "nifti", "root": f"/data/{RAW}"}
    raw["generators"] = {
        "patch_ddpm": generator_settings.model_dump(mode="json"), "copy_paste": {"kind": "copy_paste"},
    }  # fmt: skip
    raw["synthesis"] |= {"steps": 2, "fused_steps": 1, "volumes_per_job": 2}
    raw["sets"] = {"untargeted": {"generator": "patch_ddpm", "conditions": "untargeted", "volumes": 3}}
    raw["arms"] = {
        "real": {"real": True}, "real+synthetic": {"real": True, "synthetic": "untargeted"},
        "synthetic": {"real": False, "synthetic": "untargeted"}, "real-reseeded": {"real": True, "reseeded": True},
    }  # fmt: skip
    return check(raw)


def run(*words) -> None:
    assert cli.main([str(word) for word in words]) == 0


def write_cohort(results: Path) -> list[Path]:
    """Cases and who is who; the train cases come first."""
    names = [f"case-{number:04d}" for number in range(1, TRAIN + UNSEEN + 1)]
    patients = [name.replace("case", "patient") for name in names]
    for number, (name, patient) in enumerate(zip(names, patients, strict=True)):
        case = make_case((18 + number % 3, 20, 16), seed=number, name=name)
        case.about.update(patient=patient, dataset="nifti", token=f"70ce{number:08x}")
        write_case(results / "cases" / name, case)
    splits = ["train"] * TRAIN + ["validation"] * 3 + ["test"] * (UNSEEN - 3)
    rows = [
        {"case": name, "patient": patient, "split": split, "status": "included"}
        for name, patient, split in zip(names, patients, splits, strict=True)
    ]
    write_table(results / "cohort.tsv", rows, ["case", "patient", "split", "status"])
    known = [dict.fromkeys(private.COLUMNS, RAW) | {"case": name} for name in names]
    private.write_names(results / "private/names.tsv", known)
    return [results / "cases" / name / "case.json" for name in names]


def write_model(path: Path, config: Config, cases: list[Path]) -> None:
    """A model of random weights that says of itself what a trained one says."""
    settings = config.generators["patch_ddpm"]
    torch.manual_seed(0)
    made = note(
        ("generation", "train", settings.kind), of={"generator": "patch_ddpm", "size": 100}, generator=settings, seed=1,
        cases=[case.parent.name for case in cases], inputs=dict(data_digests(case.parent for case in cases)),
    )  # fmt: skip
    facts = {"images_seen": 40, "best_loss": 0.5, "precision": "float32", "ran_on": "cpu", "cost": {"seconds": 90.0}}
    checkpoint.save(path, network_of(settings).state_dict(), made | facts)


def make_set(results: Path, config: Config, cases: list[Path]) -> None:
    """Make the set in two batches, by the commands of the workflow."""
    model, rows = results / "generator/patch_ddpm/100/model.safetensors", results / "conditions/untargeted/100.tsv"
    generator, quality, masks = (
        as_json(config.generators["patch_ddpm"]),
        as_json(config.quality),
        ('{"kind":"untargeted"}'),
    )
    reference = results / "quality/patch_ddpm/100/reference.json"
    write_model(model, config, cases)
    run("generation", "conditions", *OF[:1], *OF[2:], "--conditions", masks, "--volumes", 3, "--worst-cases", 1,
        "--seed", 1, "--cases", *cases, "--out", rows)  # fmt: skip
    run("generation", "reference", *OF[:2], OF[3], "--grid", "null", "--quality", quality, "--cases", *cases,
        "--out", reference)  # fmt: skip
    batches = [results / f"synthetic/patch_ddpm/untargeted/100/{batch}" for batch in range(2)]
    for batch, out in enumerate(batches):
        run("generation", "synthesise", *OF, "--generator", generator, "--conditions", masks,
            "--synthesis", as_json(config.synthesis), "--quality", quality, "--model", model, "--rows", rows,
            "--reference", reference, "--batch", batch, "--cases", *cases, "--out", out,
            "--compute", '{"device":"cpu","precision":"float32"}')  # fmt: skip
    write_table(results / "quality/untargeted/100.tsv", rates(attempts(batches), read_json(reference)), RATE_COLUMNS)


def write_fidelity(results: Path) -> None:
    """The fidelity of made up measurements."""
    rng = np.random.default_rng(0)

    def measured(unit: str, shift: float) -> Measured:
        features = {view: rng.normal(shift, 1, (3, 4)) for view in VIEWS}
        values = rng.normal(20 * shift, 30, 1000)
        histograms = {tissue: np.histogram(values, BIN_EDGES_HU)[0] / len(values) for tissue in TISSUES[:2]}
        return Measured(unit, features, histograms, None, rng.normal(0, 100, (24, 24)))

    sets = {name: [measured(f"{name}{i}", 3.0 * (name == "synthetic")) for i in range(6)] for name in floor.SETS}
    write_json(results / "audit/untargeted/100/fidelity.json", floor.audit(sets, 2.0, seed=1))


def write_losses(results: Path, easier: float = 0.0) -> None:
    """Losses of those who were learned from, lower by ``easier``, and of all others."""
    learned = model_facts(results / "generator/patch_ddpm/100/model.safetensors")["cases"][: TRAIN - 4]
    unseen = [f"case-{number:04d}" for number in range(TRAIN + 1, TRAIN + UNSEEN + 1)]
    rows = [
        {"case": case, "patient": case.replace("case", "patient"), "group": group, "log_loss": loss - shift}
        for group, names, shift in (("learned", learned, easier), ("unseen", unseen, 0.0))
        for case, loss in zip(names, spread(len(names), -2.0), strict=True)
    ]
    write_table(results / "audit/membership/patch_ddpm/100.tsv", rows, COLUMNS)


def write_verdict(results: Path, config: Config, synthetic: float = 0.3) -> None:
    """The verdict by its own command, on made up neighbours: it passes unless ``synthetic`` ones are near."""
    sets = sorted((results / "synthetic/patch_ddpm/untargeted/100").iterdir())
    cases = [read_json(path)["case"] for folder in sets for path in sorted(folder.glob("*/case.json"))]
    rows = []
    for kind in (*KINDS, PART, OUTLINE):
        made = neighbours(spread(90, synthetic), spread(90, 0.3), spread(20, 0.9), kind=kind)
        for number, row in enumerate(row for row in made if row["group"] == "synthetic"):
            row["case"] = cases[number % len(cases)]
        rows += [dict.fromkeys(PROBE_COLUMNS) | row for row in made]
    nearest = results / "audit/untargeted/100/nearest.tsv"
    write_table(nearest, rows, PROBE_COLUMNS)
    run("audit", "verdict", *OF, "--audit", as_json(part(config.audit, Thresholds)), "--seed", 1,
        "--held-out-splits", "validation", "test", "--synthetic", *sets, "--neighbours", nearest,
        "--membership", results / "audit/membership/patch_ddpm/100.tsv",
        "--out", nearest.with_name("verdict.json"))  # fmt: skip


def write_comparison(results: Path, config: Config) -> None:
    rng = np.random.default_rng(1)
    scores = {
        arm: [_row(12 + k, f"case-{k:04d}", 0.5 + k / 100 + effect, replicate, rng)
              for replicate in ("0", "1", "ensemble") for k in range(30)]
        for arm, effect in zip(config.arms, (0.0, 0.1, -0.2, 0.0), strict=True)
    }  # fmt: skip
    rows = [{"segmenter": "unet", **row} for row in compare(scores, "real", [], config.evaluation)]
    write_table(results / "comparison/unet.tsv", rows, ["segmenter", *COMPARISON_COLUMNS])


def finish(folder: Path, config: Config) -> None:
    """Snakemake's records of all results, that of the report last."""
    results = folder / "results"
    (results / "report.html").write_text("the report")
    for path in results.rglob("*"):
        if path.is_file():
            write_record(folder, str(path.relative_to(folder)), "x-1", {})
    settings = shlex.quote(as_json(config, without={"compute"}))
    write_record(folder, "results/report.html", "report-1", {}, f"lungsyn evaluation report --config {settings} && ")


@pytest.fixture(scope="session")
def config(generator_settings) -> Config:
    return config_of(generator_settings)


@pytest.fixture(scope="session")
def finished(config, tmp_path_factory) -> Path:
    """The folder of the study; to be read, or copied."""
    folder = tmp_path_factory.mktemp("finished")
    results = folder / "results"
    make_set(results, config, write_cohort(results)[:TRAIN])
    write_fidelity(results)
    write_losses(results)
    write_verdict(results, config)
    write_comparison(results, config)
    finish(folder, config)
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the study that a test may change."""
    shutil.copytree(finished, tmp_path / "study")
    return tmp_path / "study"


TERMS = ("--license", "CC-BY-4.0", "--creator", "Doe, Jane", "--source", "CT of a hospital, doi 10.1234/abc.5")


def share(folder: Path, *words) -> int:
    """``lungsyn share`` with the terms that most tests have."""
    return cli.main(["share", *map(str, words), *TERMS, "--directory", str(folder)])


@pytest.fixture(scope="session")
def shared(finished, tmp_path_factory) -> Path:
    """The set as it is handed on."""
    out = tmp_path_factory.mktemp("shared") / "deep" / "set"
    assert share(finished, "untargeted", out) == 0
    return out


@pytest.fixture(scope="session")
def shared_model(finished, tmp_path_factory) -> Path:
    """The model as it is handed on."""
    out = tmp_path_factory.mktemp("shared") / "model"
    assert share(finished, "--model", "patch_ddpm", out) == 0
    return out
