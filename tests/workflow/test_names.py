"""A study of files that are called like patients: who looks at its results finds no name."""

import csv
import re
import stat

import nibabel as nib
import numpy as np
import pytest
import yaml

from lungsyn.provenance import model_facts
from tests.conftest import make_case

pytestmark = pytest.mark.slow

SURNAMES = ["SMITHSON", "MUELLERIN", "SHINZOABE", "ZORNEDING", "ENGELBERG", "ADAMOWSKI", "OTTOKARSEN", "PAULOVITCH"]
BROKEN = "LANGHAMMER"  # left out at the index
PEOPLE = [f"{surname}_Kim_1956-02-03" for surname in [*SURNAMES, BROKEN]]
OVERLAY = {
    "study": {"name": "a hospital's"},
    "cohort": {
        "dataset": "nifti", "nodules": {"min_diameter_mm": 3},
        "split": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "preprocess": {"spacing_mm": 2.0, "margin_mm": 0, "field_of_view": "part"},
    },
    "generators": {"patch_ddpm": {"images": 20, "validation_every_images": 20}},
    "segmenters": {"unet": {"steps": 2, "arms": ["real", "real+synthetic"]}},
    "sets": {"targeted": {"volumes": 1}},
    "replicates": 1,
}  # fmt: skip


def write_hospital(raw) -> None:
    for seed, person in enumerate(PEOPLE):
        case = make_case(shape=(30, 34, 28), seed=seed, name=person)
        for folder, values in (("images", case.ct), ("labels", np.uint8(case.nodules > 0))):
            (raw / folder).mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(values, case.affine), raw / folder / f"{person}.nii.gz")
    (raw / f"images/{PEOPLE[-1]}.nii.gz").write_bytes(b"nothing")
    with open(raw / "cases.tsv", "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerows([("case", "patient"), *((person, f"of {person}") for person in PEOPLE)])


@pytest.fixture(scope="module")
def hospital(snakemake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hospital")
    write_hospital(folder / "raw")
    overlay = OVERLAY | {"cohort": OVERLAY["cohort"] | {"root": str(folder / "raw")}}
    (folder / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    ended = snakemake(folder, "--configfile", "tests/workflow/tiny.yaml", str(folder / "overlay.yaml"))
    assert ended.returncode == 0, ended.stdout[-4000:]
    return folder, ended.stdout


def test_no_name_is_said_or_written_but_in_the_private_table(hospital):
    """Not in a table, a model, a case, the report, a log of a job or a record of Snakemake, nor in a file's name."""
    folder, said = hospital
    surnames = re.compile("|".join([*SURNAMES, BROKEN]).encode())
    written = [
        path for part in ("results", ".snakemake") for path in (folder / part).rglob("*")
        if path.is_file() and "private" not in path.parts
    ]  # fmt: skip
    assert len(written) > 100
    assert not [path for path in written if surnames.search(str(path.relative_to(folder)).encode())]
    assert not [path for path in written if surnames.search(path.read_bytes())]
    assert not surnames.search(said.encode())


def test_the_private_table_says_who_is_who(hospital):
    folder, _ = hospital
    table = folder / "results/private/names.tsv"
    with open(table, newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["name"] for row in rows} == set(PEOPLE)
    assert all(row["source"] == f"images/{row['name']}.nii.gz" for row in rows)
    assert stat.S_IMODE(table.stat().st_mode) == 0o600


def test_models_know_their_cases_by_number_and_keyed_digest(hospital):
    folder, _ = hospital
    facts = model_facts(folder / "results/generator/patch_ddpm/100/model.safetensors")
    assert facts["cases"] and all(re.fullmatch(r"case-\d{4}", case) for case in facts["cases"])
    digests = {path.read_text() for path in (folder / "results/cases").glob("*/case.json")}
    kept = facts["inputs"].values()
    assert all(re.fullmatch("[0-9a-f]{12}", digest) for digest in kept)
    assert not [digest for digest in kept if any(f'"digest": "{digest}"' in text for text in digests)]
