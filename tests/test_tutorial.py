"""The tutorial: its page and its notebook are one, and its code runs from start to end."""

import importlib.util
import os
import subprocess
import sys

import pytest

from lungsyn.volume.files import open_case
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def maker():
    spec = importlib.util.spec_from_file_location("notebook", ROOT / ".ci/notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_notebook_is_the_page(maker):
    page = maker.PAGE.read_text(encoding="utf-8")
    assert maker.NOTEBOOK.read_text(encoding="utf-8") == maker.notebook(page), "python .ci/notebook.py makes it again"
    assert [kind for kind, _ in maker.cells("text\n\n```python\n1 + 1\n```\n\n```py\nno cell\n```\n")] == [
        "markdown", "code", "markdown",
    ]  # fmt: skip


CHECKS = """
assert made.hu[labels["nodules"] > 0].mean() > -400 > made.hu[(labels["lungs"] > 0) & (labels["nodules"] == 0)].mean()
gone, new = (labels["nodules"] == 1) & (moved == 0), (moved == 1)
assert again.hu[gone].mean() < made.hu[gone].mean() - 300 and again.hu[new].mean() > made.hu[new].mean() + 300
assert lungsyn.dice(found(again.hu, other), other["nodules"]) > 0.5
assert difference.low > 0
"""


@pytest.mark.slow
def test_the_tutorial_runs_and_the_ct_follows_the_mask(maker, tmp_path):
    """In a fresh Python and an empty folder, as a notebook's kernel would."""
    code = [text for kind, text in maker.cells(maker.PAGE.read_text(encoding="utf-8")) if kind == "code"]
    (tmp_path / "cells.py").write_text("\n\n".join([*code, CHECKS]), encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env=os.environ | {"MPLBACKEND": "Agg"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert len(open_case(tmp_path / "cases/0").about["nodules"]) == 2
    assert (tmp_path / "made.png").stat().st_size > 5000 and (tmp_path / "moved.png").stat().st_size > 5000
