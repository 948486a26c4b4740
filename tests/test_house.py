"""The house's own rules: imports point one way, and what needs no torch does not load it."""

import ast
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lungsyn"
PURE = ["volume", "generators/core/schedule.py", "generators/core/prediction.py", "generators/core/samplers.py",
        "evaluation/dice.py", "evaluation/lesions.py", "evaluation/paired.py", "evaluation/froc.py",
        "evaluation/strata.py", "audit/memorisation.py", "audit/chance.py", "audit/features.py",
        "audit/fidelity.py"]  # fmt: skip
ALLOWED_IN_PURE = {"numpy", "scipy", "torch", "nibabel", "lungsyn"}


def imports_of(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(*parts):
    for part in parts:
        path = PACKAGE / part
        yield from [path] if path.suffix else sorted(path.rglob("*.py"))


def test_nobody_imports_the_command_line():
    outside = (path for path in files(".") if not path.is_relative_to(PACKAGE / "cli"))
    assert not [p for p in outside if any(name.startswith("lungsyn.cli") for name in imports_of(p))]


@pytest.mark.parametrize("room", ["sharing", "study"])
def test_only_the_command_line_opens_the_rooms_above_all_others(room):
    outside = (path for path in files(".") if path.parent.name not in ("cli", room))
    assert not [p for p in outside if any(name.startswith(f"lungsyn.{room}") for name in imports_of(p))]


def test_only_the_command_line_looks_on_while_a_network_learns():
    watching = [p.name for p in files(".") if any(name.startswith("lungsyn.live") for name in imports_of(p))]
    assert watching == ["generation.py"]


@pytest.mark.parametrize(
    ("room", "closed"),
    [
        ("volume", ("cohort", "generators", "masks", "quality", "segmenters", "evaluation", "audit", "viewer")),
        ("cohort", ("generators", "masks", "quality", "segmenters", "evaluation", "audit", "viewer")),
        ("quality", ("cohort", "generators", "masks", "segmenters", "evaluation", "audit", "viewer")),
        ("masks", ("cohort", "generators", "quality", "segmenters", "evaluation", "audit", "viewer")),
        ("generators", ("cohort", "segmenters", "evaluation", "audit", "viewer")),
        ("segmenters", ("cohort", "generators", "masks", "quality", "evaluation", "audit")),
        ("evaluation", ("cohort", "generators", "masks", "quality", "segmenters", "audit", "viewer")),
        ("viewer", ("cohort", "generators", "masks", "quality", "segmenters", "audit")),
        ("audit", ("cohort", "segmenters", "viewer")),
    ],
)
def test_imports_point_one_way(room, closed):
    wrong = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in files(room)
        for name in imports_of(path)
        if name.split(".")[:1] == ["lungsyn"] and name.split(".")[1] in closed
    }
    assert not wrong


def test_segmenters_are_asked_of_the_registry():
    outside = (path for path in files(".") if not path.is_relative_to(PACKAGE / "segmenters"))
    assert not [p for p in outside if any(name.startswith("lungsyn.segmenters") for name in imports_of(p))]


def test_the_core_of_segmenters_names_no_family():
    families = {path.stem for path in (PACKAGE / "segmenters").glob("*.py")} - {"__init__"}
    named = {name.split(".")[2] for path in files("segmenters/core") for name in imports_of(path)
             if name.startswith("lungsyn.segmenters.")}  # fmt: skip
    assert families and not named & families


def test_the_audit_takes_from_evaluation_how_to_draw_and_nothing_else():
    names = {name for path in files("audit") for name in imports_of(path) if name.startswith("lungsyn.evaluation")}
    assert {name.split(".")[2] for name in names} <= {"figures", "pictures"}


def test_pure_modules_import_only_numbers():
    for path in files(*PURE):
        outside = {name.split(".")[0] for name in imports_of(path)} - ALLOWED_IN_PURE - sys.stdlib_module_names
        assert not outside, path


@pytest.mark.parametrize(
    "module",
    ["lungsyn.cli", "lungsyn.settings.checking", "lungsyn.segmenters.monai",
     "lungsyn.volume.files", "lungsyn.cohort.table", "lungsyn.provenance",
     "lungsyn.evaluation.scores", "lungsyn.evaluation.figures", "lungsyn.audit.figures", "lungsyn.evaluation.report"],
)  # fmt: skip
def test_a_per_case_job_does_not_wait_for_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_line_asks_which_dataset_it_has():
    """It asks the reader, so that one of another package is as good."""
    code = [*files("."), *(ROOT / "workflow").rglob("*.smk")]
    asking = re.compile(r"\.dataset (==|!=|in|not in) ")
    assert not [path.name for path in code if asking.search(path.read_text(encoding="utf-8"))]


def test_pylidc_is_touched_in_one_module_only():
    users = [p.name for p in files(".") if any(name.split(".")[0] == "pylidc" for name in imports_of(p))]
    assert users in ([], ["annotations.py"])
