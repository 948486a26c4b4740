import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lungsyn import checkpoint, cli, codedigest, recipes
from lungsyn.cli import arguments
from lungsyn.provenance import note, versions
from lungsyn.seams import Segmenter
from lungsyn.segmenters.monai import Settings
from lungsyn.segmenters.networks.monai import build
from lungsyn.settings.segmenters import settings_of
from lungsyn.volume.files import open_case, write_volume
from lungsyn.volume.predictions import write_predictions
from lungsyn.volume.space import Volume
from lungsyn.volume.tables import read_table
from tests.conftest import ROOT

OF_ARM = ["--of", "segmenter=u", "arm=a", "size=50", "--replicates", "0"]
FILES = "lungsyn.volume.files"


def test_every_verb_has_help(capsys):
    for stage, verb in cli.VERBS:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*[stage][stage == "study" :], verb, "--help"])
        assert stopped.value.code == 0
        assert len(capsys.readouterr().out) > 100


def test_help_names_every_stage_with_what_it_does(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    said = capsys.readouterr().out
    for stage in {stage for stage, _ in arguments.VERBS} - {"study"} | {"why", "plan"}:
        assert re.search(rf"^ +{stage}\s+\w", said, re.M), stage


def test_overlays_of_a_plan_are_named_as_snakemake_s_or_one_by_one():
    for given in (["--configfile", "a", "b"], ["--configfile", "a", "--configfile", "b"]):
        assert cli.make_parser().parse_args(["plan", *given]).configfile == [Path("a"), Path("b")]


# No number that is read again comes of them.
PICTURES = {("evaluation", "plot-arms"), ("evaluation", "plot-set"), ("viewer", "write")}


def test_whatever_computes_with_a_case_looks_whether_its_voxels_are_those_that_were_written():
    verbs = [verb for verb in cli.VERBS if verb[0] not in ("study", "config")]
    reached = {verb: codedigest.reached(codedigest.key_of_verb(*verb)) for verb in verbs}
    opening = {verb for verb in verbs if (FILES, "open_case") in reached[verb]}
    asking = {verb for verb in verbs if (FILES, "whole_case") in reached[verb]}
    assert opening - asking == PICTURES
    assert ("audit", "verdict") in asking and ("generation", "train") in asking


def test_a_table_of_another_cohort_or_kind_is_one_message(case_folders, tmp_path, capsys):
    of = {"segmenter": "unet", "arm": "real", "size": 50}
    write_predictions(tmp_path / "none", of, [("0", "a", tmp_path / "none/0/a.nii")])
    for table, words in (("case\tsplit\nother\ttest\n", "lists no case"), ("a\tb\n1\t2\n", "no column 'case'")):
        (tmp_path / "cohort.tsv").write_text(table)
        files = [
            ("--cohort", "cohort.tsv"),
            ("--predictions", "none"),
            *((f"--{x}", x) for x in ("out", "nodules", "points")),
        ]
        told = [part for name, file in files for part in (name, str(tmp_path / file))]
        assert cli.main(["evaluation", "score", *told, "--cases", str(case_folders[0] / "case.json")]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["train", "predict"])
def test_voxels_that_were_changed_are_one_message_without_traceback(verb, case_folders, tmp_path, capsys, study):
    from lungsyn.settings.section import as_json

    folder = shutil.copytree(case_folders[0], tmp_path / "case-0")
    content = bytearray((folder / "ct.nii").read_bytes())
    content[-400:] = bytes(400)
    (folder / "ct.nii").write_bytes(content)
    settings = settings_of(study.segmenters["unet"]).model_copy(update={"channels": [4, 8], "patch_voxels": 16})
    weights = build(settings).state_dict()
    checkpoint.save(tmp_path / "0/model.safetensors", weights, {"segmenter": settings.model_dump(mode="json")})
    told = {
        "train": ["--of", "segmenter=u", "arm=a", "size=50", "replicate=0", "--segmenter", as_json(settings),
                  "--seed", 1, "--checkpoints", tmp_path,
                  "--model", tmp_path / "m", "--curve", tmp_path / "c"],
        "predict": [*OF_ARM, "--models", tmp_path / "0/model.safetensors", "--inference", '{"overlap": 0}',
                    "--out", tmp_path / "out"],
    }[verb]  # fmt: skip
    assert cli.main(["segmentation", verb, *map(str, told), "--cases", str(folder / "case.json")]) == 2
    said = capsys.readouterr().err
    assert "case-0: not the voxels that case.json tells of" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out/0/case-0.nii.gz").exists() and not (tmp_path / "m").exists()


def test_too_many_files_are_one_message_about_the_system_and_not_about_a_file(monkeypatch, case_folders, capsys):
    def none(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("lungsyn.volume.files.nib.load", none)
    told = [
        "--grid",
        '{"patch_voxels": 16, "multiple": 2, "overlap": 0}',
        "--quality",
        '{"tries": 1, "false_rejections": 0.05}',
        "--of",
        "generator=g",
        "size=50",
    ]
    assert (
        cli.main(["generation", "reference", *told, "--cases", str(case_folders[0] / "case.json"), "--out", "no"]) == 2
    )
    said = capsys.readouterr().err
    assert "the system opens no more than" in said and "ulimit -n" in said and "case-0" not in said


def test_what_a_command_writes_is_not_for_everybody(tmp_path):
    before = os.umask(0o002)
    try:
        assert cli.main(["evaluation", "answer", str(tmp_path)]) == 0
        assert os.umask(0) == 0o007
    finally:
        os.umask(before)


def test_a_user_s_mistake_is_one_message_without_traceback(tmp_path, capsys, study):
    from lungsyn.settings.section import as_json

    code = cli.main(["segmentation", "predict", *OF_ARM, "--inference", '{"overlap": 0}', "--models",
                     str(tmp_path / "none"), "--cases", str(tmp_path), "--out", str(tmp_path / "out")])  # fmt: skip
    assert code == 2
    message = capsys.readouterr().err
    assert "not a model of lungsyn" in message
    assert "Traceback" not in message
    with pytest.raises(SystemExit):
        cli.main(["generation", "synthesise", "--synthesis", as_json(study.synthesis).replace("steps", "stepz")])
    assert "stepz: unknown key" in capsys.readouterr().err


def test_a_network_of_no_numbers_is_one_message_without_traceback(case_folders, tmp_path, capsys):
    settings = Settings(
        network="unet", channels=[4, 8], window_hu=(-1000, 400), patch_voxels=16, nodule_patches=0.5, steps=1,
        batch_patches=1, learning_rate=0.001,
    )  # fmt: skip
    weights = {name: torch.full_like(tensor, torch.nan) for name, tensor in build(settings).state_dict().items()}
    checkpoint.save(tmp_path / "0/model.safetensors", weights, {"segmenter": settings.model_dump(mode="json")})
    told = [*OF_ARM, "--models", tmp_path / "0/model.safetensors", "--cases", case_folders[0] / "case.json"]
    told += ["--inference", '{"overlap": 0}', "--out", tmp_path / "out"]
    assert cli.main(["segmentation", "predict", *map(str, told)]) == 2
    assert "the network's output is no number" in capsys.readouterr().err


def test_a_model_of_another_kind_or_version_is_one_message_without_traceback(case_folders, study, tmp_path, capsys):
    def predicted_with(about):
        checkpoint.save(tmp_path / "0/model.safetensors", {"a": torch.zeros(1)}, about)
        told = [*OF_ARM, "--models", tmp_path / "0/model.safetensors", "--cases", case_folders[0] / "case.json"]
        told += ["--inference", '{"overlap": 0}', "--out", tmp_path / "out"]
        assert cli.main(["segmentation", "predict", *map(str, told)]) == 2
        return capsys.readouterr().err

    generator = {"generator": study.generators["patch_ddpm"].model_dump(mode="json")}
    assert "model.safetensors: a model of lungsyn, but not a segmenter" in predicted_with(generator)
    another = predicted_with({"segmenter": {"layers": 3}})
    assert (
        "made by another version; delete it and run the training again" in another and "layers: unknown key" in another
    )


def test_models_of_two_kinds_are_not_predicted_with_at_once(case_folders, tmp_path, capsys):
    for replicate, kind in enumerate(("monai", "another")):
        about = {"kind": kind, "segmenter": {}}
        checkpoint.save(tmp_path / f"{replicate}/model.safetensors", {"a": torch.zeros(1)}, about)
    models = [str(tmp_path / f"{replicate}/model.safetensors") for replicate in (0, 1)]
    told = ["--inference", "{}", "--cases", str(case_folders[0] / "case.json"), "--out", str(tmp_path / "out")]
    assert cli.main(["segmentation", "predict", *OF_ARM, "1", "--models", *models, *told]) == 2
    said = capsys.readouterr().err
    assert "another" in said and "monai" in said and "name those of one segmenter" in said
    assert cli.main(["segmentation", "predict", *OF_ARM, "--models", models[1], *told]) == 2
    assert "segmenters: there is no kind 'another'; it must be one of" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [lambda p: p.astype(float) / 100, lambda p: p[1:], lambda p: p + 101])
def test_what_a_segmenter_gives_is_whole_percent_of_each_voxel(case_folders, tmp_path, capsys, monkeypatch, wrong):
    class Wrong(Segmenter):
        def predict(self, case):
            return wrong(np.zeros(case.ct.shape, np.uint8))

    monkeypatch.setattr("lungsyn.segmenters.core.prediction.load", lambda *_: Wrong())
    checkpoint.save(tmp_path / "0/model.safetensors", {"a": torch.zeros(1)}, {"segmenter": {}})
    told = [*OF_ARM, "--models", tmp_path / "0/model.safetensors", "--inference", "{}", "--out", tmp_path / "out"]
    told += ["--cases", case_folders[0] / "case.json"]
    assert cli.main(["segmentation", "predict", *map(str, told)]) == 2
    said = capsys.readouterr().err
    assert "case-0: the segmenter predicted " in said and "it must be uint8, 0 to 100" in said
    assert not (tmp_path / "out").exists()


def test_more_cases_are_open_than_a_system_s_usual_limit_lets():
    """A train case is four memory maps, each an open file; the limit of the process that runs the tests stays."""
    script = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
from lungsyn.cli import allow_open_files
allow_open_files()
files = [os.open(os.devnull, os.O_RDONLY) for _ in range(500)]
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_case_folders_are_found_in_order(case_folders, tmp_path):
    root = case_folders[0].parent
    assert arguments.case_folders([root]) == sorted(case_folders)
    assert arguments.case_folders([case_folders[2] / "case.json", root])[0] == case_folders[2]


def test_provenance_is_json_and_names_versions(study):
    text = json.dumps(note(("generation", "train", "patch_ddpm"), generator=study.generators["patch_ddpm"], seed=1))
    assert '"torch"' in text
    assert versions()["python"].count(".") == 2
    assert json.loads(text)["code"] == recipes.code_of("generation", "train", "patch_ddpm")
    assert json.loads(text)["recipe"] == recipes.recipe_of("generation", "train", "patch_ddpm")


def test_targeted_masks_come_from_the_cases_that_are_segmented_worst(case_folders, tmp_path):
    """A faint probability everywhere is no nodule: the case whose prediction is no more than that is the worst."""
    files = []
    for folder in case_folders[:3]:
        case = open_case(folder)
        percent = np.full(case.ct.shape, 10, np.uint8)
        if folder != case_folders[1]:
            percent[np.asarray(case.nodules) > 0] = 90
        files.append(("0", folder.name, tmp_path / "predictions/0" / f"{folder.name}.nii"))
        write_volume(files[-1][-1], Volume(percent, case.affine))
    write_predictions(tmp_path / "predictions", {"segmenter": "unet", "arm": "real", "size": 50}, files)
    cases = [str(folder / "case.json") for folder in case_folders[:3]]
    cli.main(["generation", "conditions", "--of", "set=s", "size=50", "--conditions", '{"kind":"targeted"}',
              "--volumes", "2", "--worst-cases", "1", "--seed", "0", "--cases", *cases,
              "--predictions", str(tmp_path / "predictions"),
              "--out", str(tmp_path / "rows.tsv")])  # fmt: skip
    assert {row["body_case"] for row in read_table(tmp_path / "rows.tsv")} == {"case-1"}


def test_a_rule_s_recipe_is_its_verb_s():
    """Else a raised recipe would rerun nothing, or another rule."""
    rules = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    parts = re.split(r"(?m)^(?:rule|checkpoint) (\w+):", rules)[1:]
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        verb = re.search(r"lungsyn (\w+) ([\w-]+) ", body)
        recipe = re.search(r'recipe=.*recipe_of\("(\w+)", "([\w-]+)"', body)
        assert verb and recipe and verb.groups() == recipe.groups(), name
        assert verb.groups() in recipes.OF_VERBS, name


def test_without_a_comparison_no_report_is_promised(tmp_path, capsys):
    assert cli.main(["evaluation", "answer", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "no comparison yet" in said and "report.html" not in said
    (tmp_path / "answer.txt").write_text("the tables\n")
    assert cli.main(["evaluation", "answer", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "the tables" in said and str(tmp_path / "report.html") in said


def test_rules_that_run_on_the_submitting_machine_exist():
    listed = re.search(r"localrules:\n((?:    \w+,\n)+)", (ROOT / "workflow/rules/operation.smk").read_text())[1]
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    known = {"all", *re.findall(r"(?m)^(?:rule|checkpoint) (\w+):", rules)}
    assert set(re.findall(r"\w+", listed)) <= known
