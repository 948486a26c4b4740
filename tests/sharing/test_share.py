"""`lungsyn share`: a set or a model of a finished study, as whoever gets it sees it, and what must never leave."""

import base64
import gzip
import json
import shutil
import subprocess

import numpy as np
import pydicom
import pytest
import yaml

import lungsyn
from lungsyn import cli
from lungsyn.cohort import nifti
from lungsyn.errors import InputError
from lungsyn.provenance import model_facts
from lungsyn.registry import family
from lungsyn.settings.checking import check
from lungsyn.sharing.findings import utility
from lungsyn.sharing.models import KEPT
from lungsyn.sharing.sets import of_no_scanner, without_places
from lungsyn.sharing.study import open_study
from lungsyn.sharing.terms import for_hugging_face, licence
from lungsyn.volume.files import open_case, read_json, write_case, write_json
from lungsyn.volume.tables import read_table, write_table
from tests.cohort.test_nifti import settings
from tests.conftest import make_case
from tests.sharing.conftest import RAW, TRAIN, UNSEEN, config_of, finish, share, write_losses, write_verdict

pytest.importorskip("highdicom", reason="highdicom (pip install 'lungsyn[dicom]') is not here")
VERDICT = "results/audit/untargeted/100/verdict.json"


def card(folder) -> tuple[dict, str]:
    """The front matter of README.md, and its text."""
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_folder_of_a_set_is_whole(shared):
    assert {path.name for path in shared.iterdir()} == {
        "README.md", ".zenodo.json", "SHA256SUMS", "cases.tsv", "preview.png", "nifti", "dicom",
    }  # fmt: skip
    files = sorted(str(path.relative_to(shared)) for path in shared.rglob("*") if path.is_file())
    listed = [line.split("  ")[1] for line in (shared / "SHA256SUMS").read_text().splitlines()]
    assert sorted([*listed, "SHA256SUMS"]) == files
    if shutil.which("sha256sum"):
        ended = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=shared, capture_output=True)
        assert ended.returncode == 0, ended.stderr


def test_both_forms_hold_the_voxels_that_were_audited(shared, finished):
    rows = {row["case"]: row for row in nifti.index(shared / "nifti", settings(shared / "nifti"))}
    made = {path.parent.name: open_case(path.parent) for path in finished.glob("results/synthetic/**/case.json")}
    assert sorted(made) == sorted(rows) == [f"untargeted-000{i}" for i in range(3)]
    for name, case in made.items():
        assert case.digest == read_json(finished / VERDICT)["cases"][name]
        raw = nifti.read_case(
            shared / "nifti", rows[name]["source"], rows[name]["annotation"], settings(shared / "nifti")
        )
        assert np.array_equal(raw.ct.data, case.ct)
        low, high = raw.ct.space.bounds_mm()
        assert (np.allclose(low, -high, atol=1e-4), raw.ct.space.spacing_mm.tolist()) == (True, [2.0, 2.0, 2.0])
        slices = [pydicom.dcmread(path) for path in (shared / "dicom" / name / "ct").iterdir()]
        assert (
            sum(int(s.pixel_array.sum()) + s.pixel_array.size * int(s.RescaleIntercept) for s in slices)
            == case.ct.sum()
        )
        segments = pydicom.dcmread(shared / "dicom" / name / "nodules.dcm")
        assert int(segments.pixel_array.sum()) == np.count_nonzero(case.nodules)


def test_dicom_is_what_the_standard_asks_for(shared):
    """dciodvfy knows no Synthetic Data (0008,001C), which is younger than it: that is all it may find."""
    if not shutil.which("dciodvfy"):
        pytest.skip("dciodvfy (Debian's dicom3tools) is not here")
    for path in (next(shared.glob("dicom/*/ct/001.dcm")), next(shared.glob("dicom/*/nodules.dcm"))):
        said = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True).stderr
        assert [line for line in said.splitlines() if line.startswith("Error") and "(0x0008,0x001c)" not in line] == []


def test_the_data_sheet_says_what_the_set_is_and_is_not(shared, finished):
    front, text = card(shared)
    assert front["license"] == "cc-by-4.0" and front["size_categories"] == ["n<1K"]
    assert read_table(shared / front["configs"][0]["data_files"])[0]["case"] == "untargeted-0000"
    for section in (
        "Motivation", "Composition", "Collection process", "Preprocessing, cleaning, labelling", "Uses", "Distribution",
        "Maintenance",
    ):  # fmt: skip
        assert f"\n## {section}\n" in text
    verdict = read_json(finished / VERDICT)
    assert all(check["sentence"] in text for check in verdict["checks"] if check["check"] != "disguises")
    for said in (
        f"{TRAIN} CT of {TRAIN} patients", "It is not proven to be anonymous", "CT of a hospital, doi 10.1234/abc.5",
        "Doe, Jane", "3 were rejected, 3 of them are in the set", "raised the mean Dice of the test cases by 0.098",
        "seed 2024 of the study", "timesteps: 50", "None were given", "# a {hospital} | study: synthetic CT",
        f"{UNSEEN} held-out patients", "0 kinds of copies could not be looked for",
    ):  # fmt: skip
        assert said in text, said
    deposit = json.loads((shared / ".zenodo.json").read_text())
    assert deposit["license"] == "CC-BY-4.0" and deposit["creators"] == [{"name": "Doe, Jane"}]
    assert deposit["related_identifiers"] == [{"identifier": "10.1234/abc.5", "relation": "isDerivedFrom"}]


def test_what_an_audit_missed_is_named(copied, tmp_path):
    verdict = read_json(copied / VERDICT)
    for row in verdict["disguises"][:2]:
        row["recall"] = 0.25
    hidden = [row["disguise"] for row in verdict["disguises"][:2]]
    write_json(copied / VERDICT, verdict | {"not_found": hidden})
    assert share(copied, "untargeted", tmp_path / "out", "--size", 100) == 0
    text = card(tmp_path / "out")[1]
    assert "2 kinds of copies could not be looked for" in text
    assert all(f"- {disguise} (25 % found)\n" in text for disguise in hidden)


def bytes_of(folder) -> dict:
    """Every file's content, unpacked where it is packed."""
    found = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: gzip.decompress(data) if path.suffix == ".gz" else data for path, data in found.items()}


def test_no_name_and_no_digest_of_a_patient_leaves(shared, shared_model, finished):
    model = model_facts(finished / "results/generator/patch_ddpm/100/model.safetensors")
    digests = [read_json(path)["digest"] for path in finished.glob("results/cases/*/case.json")]
    names = [RAW, "case-0", "patient-0", "body_case", *model["inputs"].values(), *digests]
    assert len(names) == 4 + TRAIN + len(digests) and len(digests) == TRAIN + UNSEEN
    for folder in (shared, shared_model):
        for path, data in bytes_of(folder).items():
            assert [name for name in names if name.encode() in data] == [], path
    assert set(model_facts(shared_model / "model.safetensors")) <= set(KEPT)


def test_the_model_is_the_same_and_its_card_runs(shared_model, finished, case_folders, tmp_path, monkeypatch):
    front, text = card(shared_model)
    assert front["library_name"] == "lungsyn"
    for section in (
        "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
        "Quantitative analyses", "Ethical considerations", "Caveats and recommendations",
    ):  # fmt: skip
        assert f"\n## {section}\n" in text
    assert "An attacker could not tell 8 patients" in text and "*pass*" in text
    shutil.copytree(shared_model, tmp_path / "model")
    write_case(tmp_path / "model/a/case", open_case(case_folders[0]))
    monkeypatch.chdir(tmp_path / "model")
    block = text.partition("```python\n")[2].partition("```")[0]
    exec(block, {})
    made, case = lungsyn.open_case("made/one"), lungsyn.open_case("a/case")
    own = lungsyn.load_generator(
        finished / "results/generator/patch_ddpm/100/model.safetensors", synthesis=open_study(finished).config.synthesis
    )
    assert np.array_equal(made.ct, own.sample(lungsyn.Scene(case.labels, case.affine), seed=1).hu)


def refused(capsys, folder, out, *words) -> str:
    """The message of a refusal, which leaves nothing behind."""
    before = sorted(out.parent.iterdir())
    capsys.readouterr()
    assert share(folder, *words, out) == 2
    assert sorted(out.parent.iterdir()) == before
    return capsys.readouterr().err


def test_a_set_that_did_not_pass_is_refused_with_the_reason(copied, config, tmp_path, capsys):
    write_verdict(copied / "results", config, synthetic=0.7)
    said = refused(capsys, copied, tmp_path / "out", "untargeted")
    assert "set untargeted is fail" in said and "nodule: copies (fail)" in said
    write_losses(copied / "results", easier=3.0)
    write_verdict(copied / "results", config)
    assert "membership (fail)" in refused(capsys, copied, tmp_path / "out", "untargeted")
    assert "model of patch_ddpm is fail" in refused(capsys, copied, tmp_path / "out", "--model", "patch_ddpm")


def test_voxels_that_were_not_audited_are_refused(copied, tmp_path, capsys):
    folder = next(copied.glob("results/synthetic/**/untargeted-0001"))
    case = open_case(folder)
    ct = np.array(case.ct)
    ct[2, 3, 4] += 1
    write_case(folder, lungsyn.Case(ct, case.labels, case.affine, case.about))
    assert "untargeted-0001 is not what the verdict" in refused(capsys, copied, tmp_path / "out", "untargeted")


def test_a_real_patients_ct_is_refused_even_if_it_passed(copied, tmp_path, capsys):
    folder = next(copied.glob("results/synthetic/**/untargeted-0001"))
    case = open_case(folder)
    write_case(folder, lungsyn.Case(case.ct, case.labels, case.affine, case.about | {"known_case": "case-0001"}))
    assert "untargeted-0001 keeps the CT of a real patient" in refused(capsys, copied, tmp_path / "out", "untargeted")


def test_a_folder_that_exists_is_left_alone(finished, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for name in ("out", "nowhere"):
        assert "exists: name a new folder" in refused(capsys, finished, tmp_path / name, "untargeted")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert share(finished, "untargeted", tmp_path / "out/mine/out") == 2
    assert "a file stands where a folder is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody"], "no arm of the study uses a set 'nobody' at size 100, so there is none; sets: untargeted"),
        (["untargeted", "--size", 50], "--size is 50: the study's training-set sizes are 100"),
        (["--model", "nobody"], "the study has no generator 'nobody', only copy_paste, patch_ddpm"),
        (["--model", "copy_paste"], "copy_paste was never attacked: the loss"),
        (["untargeted", "--notes", "none.md"], "--notes none.md cannot be read"),
    ],
)
def test_what_cannot_be_shared_says_why(finished, tmp_path, capsys, words, message):
    assert message in refused(capsys, finished, tmp_path / "out", *words)


def test_terms_are_asked_for(finished, tmp_path, capsys):
    whole = {"--license": "MIT", "--creator": "Doe, Jane", "--source": "our CT"}
    for left_out, message in (
        ("--creator", "nobody is said to answer for it"),
        ("--source", "nothing says of what data the study's patients are"),
    ):
        words = [word for option, value in whole.items() if option != left_out for word in (option, value)]
        assert cli.main(["share", "untargeted", str(tmp_path / "out"), "--directory", str(finished), *words]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        cli.main(["share", "untargeted", str(tmp_path / "out"), "--creator", "x"])
    assert "--license" in capsys.readouterr().err


def test_a_model_that_was_never_attacked_is_refused(copied, tmp_path, capsys):
    losses = copied / "results/audit/membership/patch_ddpm/100.tsv"
    rows = read_table(losses)
    write_table(losses, rows[1:] + [rows[0] | {"case": "case-9999"}], list(rows[0]))
    assert "about another model than the present one" in refused(
        capsys, copied, tmp_path / "out", "--model", "patch_ddpm"
    )
    losses.unlink()
    assert "patch_ddpm was never attacked at 100 %" in refused(
        capsys, copied, tmp_path / "out", "--model", "patch_ddpm"
    )


def test_a_model_that_did_not_make_the_set_is_refused(copied, tmp_path, capsys):
    model = copied / "results/generator/patch_ddpm/100/model.safetensors"
    for path in copied.glob("results/synthetic/**/case.json"):
        about = read_json(path)
        about["made"]["inputs"]["model"] = "0123456789ab"
        write_json(path, about)
    assert f"made by another model than {model}" in refused(capsys, copied, tmp_path / "out", "untargeted")


def test_a_study_with_folds_is_refused_with_the_way_out(copied, config, tmp_path, capsys):
    folds = config.model_dump(mode="json")
    folds["cohort"]["split"] = {"folds": 3, "validation": 0.2}
    finish(copied, check(folds))
    for words in (["untargeted"], ["--model", "patch_ddpm"]):
        said = refused(capsys, copied, tmp_path / "out", *words)
        assert "is a study with folds" in said and "cohort.split without folds" in said


@pytest.mark.parametrize(("draws", "words"), [("segmenter", "this set"), ("set", "this set or another draw of it")])
def test_a_card_says_whether_its_set_alone_was_learned_from(copied, config, draws, words):
    finish(copied, config.model_copy(update={"replicates_draw": draws}))
    (trial,) = utility(open_study(copied), "untargeted", 100)
    assert [row["trained_on"] for row in trial["rows"]] == [
        "real cases", f"real cases and {words}", words, "real cases",
    ]  # fmt: skip


def test_results_that_are_newer_than_the_report_are_refused(copied, tmp_path, capsys):
    report = copied / ".snakemake/metadata" / base64.urlsafe_b64encode(b"results/report.html").decode()
    write_json(report, read_json(report) | {"endtime": 1.0})
    assert "made after the report" in refused(capsys, copied, tmp_path / "out", "untargeted")
    (copied / "results/report.html").unlink()
    assert "no finished study" in refused(capsys, copied, tmp_path / "out", "untargeted")


def test_public_sources_and_phantoms_are_known_by_their_patients(copied, generator_settings, tmp_path):
    cohort = copied / "results/cohort.tsv"
    rows = [row | {"patient": row["patient"].replace("patient", "LIDC-IDRI")} for row in read_table(cohort)]
    write_table(cohort, rows, list(rows[0]))
    raw = config_of(generator_settings).model_dump(mode="json")
    raw["cohort"] |= {"dataset": "phantom", "root": None}
    finish(copied, check(raw))
    notes = tmp_path / "notes.md"
    notes.write_text("Approved by **nobody**.\n")
    words = ["--license", "EUPL-1.2", "--creator", "x", "--notes", str(notes), "--directory", str(copied)]
    assert cli.main(["share", "untargeted", str(tmp_path / "out"), *words]) == 0
    text = card(tmp_path / "out")[1]
    assert "LIDC-IDRI (CC BY 3.0)" in text and "Approved by **nobody**." in text
    assert "12 simulated CT (phantoms, no patients)" in text and "The CT that were learned from are simulated" in text
    deposit = json.loads((tmp_path / "out/.zenodo.json").read_text())
    assert [row["identifier"] for row in deposit["related_identifiers"]] == ["10.7937/K9/TCIA.2015.LO9QL9SX"]


def test_a_licence_is_an_identifier_of_spdx():
    assert licence("cc-by-nc-sa-4.0") == "CC-BY-NC-SA-4.0"
    for other in ("", "free", "MIT OR Apache-2.0", "LicenseRef-ours"):
        with pytest.raises(InputError, match="no single identifier"):
            licence(other)
    assert for_hugging_face("CC0-1.0") == {"license": "cc0-1.0"}
    assert for_hugging_face("ODbL-1.0") == {
        "license": "other", "license_name": "odbl-1.0", "license_link": "https://spdx.org/licenses/ODbL-1.0.html",
    }  # fmt: skip


def test_a_volume_keeps_nothing_of_a_scanner():
    """The spacing of a scan that is nearly the study's comes from its patient's header; another is the set's own."""
    case = make_case((20, 21, 22), spacing_mm=2.003)
    for spacing_mm, kept in ((2.0, 2.0), (3.0, 2.003)):
        space = of_no_scanner(case, spacing_mm).space
        np.testing.assert_allclose(space.spacing_mm, kept)
        np.testing.assert_allclose(np.add(*space.bounds_mm()), 0, atol=1e-9)


def test_settings_tell_nobody_where_files_lie():
    assert without_places({"kind": "maisi", "folder": "/home/jane/maisi"}) == {"kind": "maisi"}
    assert without_places({"kind": "made", "table": "/home/jane/wanted.tsv"}) == {"kind": "made"}


def test_a_set_of_a_program_that_learns_nothing(copied, tmp_path, monkeypatch):
    """A generator of another package may have no model, and what it makes may not be judged."""
    monkeypatch.setattr(type(family("generators", "patch_ddpm")), "trains", False)
    for path in copied.glob("results/synthetic/**/case.json"):
        about = read_json(path)
        del about["quality"], about["made"]["inputs"]["model"]
        write_json(path, about)
    assert share(copied, "untargeted", tmp_path / "out") == 0
    text = card(tmp_path / "out")[1]
    for said in ("nothing: the generator is not trained", "What was made was not judged", "made by a program."):
        assert said in text, said
    assert "- Training" not in text and "None" not in text.replace("None of", "").replace("None were", "")
