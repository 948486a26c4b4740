"""A failed run ends with the reason and the file to read."""

import pytest
import yaml

from lungsyn.failures import WORDLESS, message, summary

BANNER = "lungsyn segmentation predict: code 4072fa7594e3, python 3.11.7, torch 2.10\n"
BLOCK = """
Error in rule prepare:
    message: None
    jobid: 5
    output: results/cases/{case}/case.json
    log: {log} (check log file(s) for error details)
    shell:
        lungsyn cohort prepare
        (command exited with non-zero exit code)
"""


def test_a_run_with_bad_input_says_why(snakemake, tmp_path):
    """The real thing: a folder that holds no cases."""
    raw = tmp_path / "St Mary's CT"  # a blank and an apostrophe, which a shell takes for its own
    raw.mkdir()
    overlay = {"study": {"name": "St Mary's"}, "cohort": {"dataset": "nifti", "root": str(raw)}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(overlay))
    ended = snakemake(tmp_path, "--configfile", str(tmp_path / "study.yaml"))
    assert ended.returncode == 1
    end = ended.stdout[ended.stdout.index("1 job failed.") :]
    assert "listing: lungsyn cohort index: no .nii or .nii.gz in images/" in end and f"({raw})" in end
    assert "read: results/logs/listing.log" in end
    assert "Traceback" not in ended.stdout


def test_every_failed_job_is_named_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.log").write_text("lungsyn cohort prepare: code 1, python 3\nlungsyn cohort prepare: a.dcm: broken\n")
    (tmp_path / "b.log").write_text("")
    blocks = [BLOCK.format(case=case, log=f"{case}.log") for case in ("a", "a", "b")]
    (tmp_path / "snakemake.log").write_text("Select jobs\n".join(blocks))
    text = summary(tmp_path / "snakemake.log")
    assert text.startswith("2 jobs failed.")
    assert text.count("a.dcm: broken") == 1 and "read: a.log" in text
    assert "memory or time runs out" in text


def test_a_job_that_the_system_killed_is_said_so(tmp_path, monkeypatch):
    """Snakemake's log has its status beside the command, which ends with the name of its log."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.log").write_text(BANNER + "predicting: 3/10 cases, mean error 0.1\n")
    command = (
        "Command 'set -euo pipefail;  lungsyn segmentation predict > a.log 2>&1' returned non-zero exit status 137.\n"
    )
    (tmp_path / "snakemake.log").write_text(command + BLOCK.format(case="a", log="a.log"))
    text = summary(tmp_path / "snakemake.log")
    assert "it was killed, as when memory or time runs out; the last it printed: predicting: 3/10" in text


def test_a_thousand_failures_are_not_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "snakemake.log").write_text("".join(BLOCK.format(case=i, log=f"{i}.log") for i in range(1000)))
    text = summary(tmp_path / "snakemake.log")
    assert "1000 jobs failed" in text and "and 990 more" in text and len(text.splitlines()) < 30


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("lungsyn cohort index: no case.\n0 of 3\n", "lungsyn cohort index: no case.\n    0 of 3"),
        ("Traceback (most recent call last):\n  File x\nFloatingPointError: nan\n", "FloatingPointError: nan"),
        (
            BANNER + "generator: 3/10\rgenerator: 4/10 patches\n",
            WORDLESS + "; the last it printed: generator: 4/10 patches",
        ),
        (BANNER, f"{WORDLESS}; the last it printed: {BANNER.strip()}"),
        (BANNER + "stopped by SIGTERM: 3 of 9 steps are saved\n", "stopped by SIGTERM: 3 of 9 steps are saved"),
        (BANNER + "/bin/bash: line 1: 7 Segmentation fault\n", "/bin/bash: line 1: 7 Segmentation fault"),
        (
            BANNER + "lungsyn cohort index: done in 3.0 s, 90 MB of memory\n",
            f"{WORDLESS}; the last it printed: lungsyn cohort index: done in 3.0 s, 90 MB of memory",
        ),
        ("\n", WORDLESS),
    ],
)
def test_the_reason_is_the_last_thing_said(log, expected):
    assert message(log) == expected
