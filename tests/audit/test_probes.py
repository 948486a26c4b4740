"""The whole experiment on small cases: copies are found, strangers are not, and the picture is drawn."""

from collections import Counter

import numpy as np
import pytest
import torch

from lungsyn import checkpoint, cli
from lungsyn.audit.disguises import DEFORMED, DISGUISES, WHOLES
from lungsyn.audit.probes import COLUMNS, probe, probe_parts, read_probes
from lungsyn.audit.verdict import neighbour_checks, verdict
from lungsyn.errors import InputError
from lungsyn.settings.audit import Probing, Thresholds
from lungsyn.settings.section import as_json
from lungsyn.volume.files import open_case, write_case
from lungsyn.volume.tables import read_table, write_table
from tests.conftest import make_case, network_of

SETTINGS = Thresholds(patch_mm=24.0)


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """12 train, 10 held-out and 12 synthetic cases; the first synthetic one is a noisy train case."""
    root = tmp_path_factory.mktemp("audit")
    folders = {"train": [], "held-out": [], "synthetic": []}
    for i, group in enumerate(["train"] * 12 + ["held-out"] * 10 + ["synthetic"] * 12):
        case = make_case((26, 28, 24), seed=i, name=f"{group}-{i}")
        if group == "synthetic" and not folders["synthetic"]:
            copied, noise = open_case(folders["train"][3]), np.random.default_rng(0).normal(0, 8, case.ct.shape)
            case.ct[...] = copied.ct + noise
        folders[group].append(root / group / f"{group}-{i}")
        write_case(folders[group][-1], case)
    return folders


@pytest.fixture(scope="module")
def rows(groups):
    told = (groups, SETTINGS, 0, "cpu")
    return [row for kind in ("nodule", "volume") for row in probe(kind, *told)] + probe_parts(*told)


def test_the_copy_is_found_and_nothing_else(rows):
    first = {row["kind"]: row for row in reversed(rows) if row["group"] == "synthetic" and row["place"] != "x"}
    assert first["nodule"]["nearest"] == "train-3/1" and first["volume"]["nearest"] == "train-3"
    assert (first["volume"]["shift"], first["volume"]["mirror"]) == ("0 0 0", "")
    found = verdict(rows, [], SETTINGS, 0)
    results = {check["check"]: check for check in found["checks"]}
    assert results["nodule: copies"]["value"] == 2 and results["volume: copies"]["value"] == 1
    assert results["nodule: closer"]["value"] > 0.01
    assert all(control["recall"] == 1.0 for control in found["controls"] if control["kind"] != "part")


def test_the_table_has_a_row_per_probe_and_per_train_cube(rows):
    counts = {kind: [row["group"] for row in rows if row["kind"] == kind] for kind in ("nodule", "volume", "part")}
    assert [counts["nodule"].count(g) for g in ("synthetic", "held-out", "planted", "train")] == [
        24, 20, 20 * (1 + len(DISGUISES)), 24,
    ]  # fmt: skip
    assert [counts["volume"].count(g) for g in ("synthetic", "held-out", "planted", "train")] == [
        12, 10, 20 * (1 + len(WHOLES)), 12,
    ]  # fmt: skip
    assert [counts["part"].count(g) for g in ("synthetic", "held-out", "planted", "train")] == [
        12, 10, 20 * (len(DISGUISES) - len(DEFORMED)), 12,
    ]  # fmt: skip
    assert all(list(row) == COLUMNS for row in rows)
    assert all(
        (row["held_out_nearest"] is not None) == (row["group"] == "synthetic") for row in rows if row["kind"] != "part"
    )


def test_a_group_without_cases_is_named(groups):
    with pytest.raises(InputError, match="no nodule in the held-out cases"):
        probe("nodule", groups | {"held-out": []}, SETTINGS, 0, "cpu")


def test_the_verdict_on_nodules_is_blind_where_none_was_made(groups, tmp_path):
    """A generator that makes the masks as well may make none: the audit goes on, by volumes, parts and outlines."""
    bare = []
    for folder in groups["synthetic"][:2]:
        case = open_case(folder)
        case = case.with_labels(nodules=np.zeros_like(np.asarray(case.nodules)))
        case.about["nodules"] = []
        write_case(tmp_path / folder.name, case)
        bare.append(tmp_path / folder.name)
    rows = probe("nodule", groups | {"synthetic": bare}, SETTINGS, 0, "cpu")
    assert {row["group"] for row in rows} == {"held-out", "planted", "train"}
    others = [
        dict.fromkeys(COLUMNS) | {"kind": kind, "group": "synthetic", "case": folder.name}
        for kind in ("volume", "part", "outline")
        for folder in bare
    ]
    write_table(tmp_path / "nearest.tsv", [*rows, *others], COLUMNS)
    read = read_probes(tmp_path / "nearest.tsv", [folder.name for folder in bare])
    _, checks = neighbour_checks("nodule", [row for row in read if row["kind"] == "nodule"], SETTINGS, 0)
    assert {check.sentence for check in checks} == {"Blind: no synthetic nodule has a number to compare."}


def test_synthetic_cases_belong_to_the_patient_of_their_masks(groups, rows, tmp_path):
    case = make_case((26, 28, 24), seed=3, name="made")
    case.about["made"] = {"row": {"body_case": "train-3", "nodule_case": "train-5"}}
    write_case(tmp_path / "made", case)
    found = {
        kind: probe(kind, groups | {"synthetic": [tmp_path / "made"]}, SETTINGS, 0, "cpu")[0]["patient"]
        for kind in ("nodule", "volume")
    }
    patients = [open_case(groups["train"][i]).about["patient"] for i in (5, 3)]
    assert [found["nodule"], found["volume"]] == patients


def test_the_command_writes_the_table(groups, tmp_path):
    cases = [a for g, f in groups.items() for a in (f"--{g}", str(f[0].parent))]
    audit = as_json(Probing(patch_mm=24.0))
    table = str(tmp_path / "nearest.tsv")
    told = [
        "--of",
        "generator=g",
        "set=s",
        "size=50",
        "--audit",
        audit,
        "--seed",
        "0",
        "--compute",
        '{"generator_threads": 1}',
    ]
    assert cli.main(["audit", "memorisation", *told, *cases, "--out", table]) == 0
    rows = read_table(tmp_path / "nearest.tsv")
    assert Counter(row["kind"] for row in rows) == {"nodule": 328, "volume": 174, "part": 194, "outline": 174}


def test_membership_from_the_command_line(groups, generator_settings, tmp_path):
    torch.manual_seed(0)
    names = [folder.name for folder in groups["train"][:5]]
    about = {"generator": generator_settings.model_dump(mode="json"), "cases": names, "seed": 1}
    checkpoint.save(tmp_path / "model.safetensors", network_of(generator_settings).state_dict(), about)
    told = ["--train", str(groups["train"][0].parent), "--unseen", *(f"{f}/case.json" for f in groups["held-out"][:2])]
    files = ["--model", str(tmp_path / "model.safetensors"), "--out", str(tmp_path / "membership.tsv")]
    assert cli.main(["audit", "membership", "--of", "generator=g", "size=50", "--seed", "0", *told, *files]) == 0
    rows = read_table(tmp_path / "membership.tsv")
    assert [row["group"] for row in rows] == ["learned"] * 3 + ["unseen"] * 2
    assert all(np.isfinite(float(row["log_loss"])) for row in rows)
