"""The pages of docs/: shell blocks run, quoted messages exist in the code, paths and options in them exist."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCKS = [
    (page.name, block)
    for page in PAGES
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), BLOCKS)
def test_shell_blocks_run(page, block, tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = block.replace("snakemake --dry-run", f"snakemake --dry-run --directory {tmp_path}").strip()
    command = command.replace("lungsyn ", f"{sys.executable} -m lungsyn.cli ", 1) if "lungsyn " in command else command
    ended = subprocess.run(
        ["bash", "-euc", command], cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert ended.returncode == 0, f"{page}: {ended.stdout[-1000:]} {ended.stderr[-1000:]}"


def literals() -> str:
    """Every string of the package, the parts of an f-string joined where a value stands between."""
    found = []
    for path in (ROOT / "lungsyn").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_quoted_messages_exist_in_the_code():
    rows = re.findall(r"^\| `(.+?)` \|", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    said = literals()
    assert len(rows) > 10
    for row in rows:
        pieces = [re.escape(piece.strip()) for piece in row.split("…") if piece.strip()]
        assert re.search("[^\n]*".join(pieces), said), row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:workflow|docs|envs|tests)/[\w/.-]+\w", text)) | {
        f"docs/{name}" for name in re.findall(r"\]\(([\w-]+\.(?:md|png))\)", text)
    }
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if "://" in link:
            continue
        assert target.exists(), link
        headings = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8")) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings], link
