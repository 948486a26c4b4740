import json

import pytest

from lungsyn import cli, codedigest
from lungsyn.provenance import note, versions


def test_every_verb_has_help(capsys):
    for stage, verb in cli.VERBS:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*[stage][stage == "study" :], verb, "--help"])
        assert stopped.value.code == 0
        assert len(capsys.readouterr().out) > 100


def test_a_user_s_mistake_is_one_message_without_traceback(tmp_path, capsys, study):
    from lungsyn.config import as_json

    code = cli.main(["segmentation", "predict", "--models", str(tmp_path / "none"), "--cases", str(tmp_path),
                     "--out", str(tmp_path / "out")])  # fmt: skip
    assert code == 2
    message = capsys.readouterr().err
    assert "not a model of lungsyn" in message
    assert "Traceback" not in message
    with pytest.raises(SystemExit):
        cli.main(["generation", "synthesise", "--synthesis", as_json(study.synthesis).replace("steps", "stepz")])
    assert "stepz: unknown key" in capsys.readouterr().err


def test_case_folders_are_found_in_order(case_folders, tmp_path):
    root = case_folders[0].parent
    assert cli.case_folders([root]) == sorted(case_folders)
    assert cli.case_folders([case_folders[2] / "case.json", root])[0] == case_folders[2]


def test_provenance_is_json_and_names_versions(study):
    text = json.dumps(note(("generation", "train"), generator=study.generators["patch_ddpm"], seed=1))
    assert '"torch"' in text
    assert versions()["python"].count(".") == 2
    assert json.loads(text)["code"] == codedigest.of_verb("generation", "train")
