"""The changelog knows the version, the site has every page, the hooks before a commit are those of `make lint`."""

import importlib.util
import re
import tomllib

import pytest
import yaml

import lungsyn
from tests.conftest import ROOT

MKDOCS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def site():
    """The hooks of mkdocs.yml, which need no mkdocs until a site is built."""
    spec = importlib.util.spec_from_file_location("pages", ROOT / MKDOCS["hooks"][0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_of(nav) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in pages_of(entry)]


def test_the_changelog_has_the_version_and_what_is_unreleased():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    headings = re.findall(r"(?m)^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert headings[0] == "Unreleased"
    assert any(re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", heading) for heading in headings)
    assert lungsyn.__version__ == version


def test_the_site_has_every_page_once_and_no_other(site):
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert sorted(pages_of(MKDOCS["nav"])) == sorted([*pages, *site.PAGES])
    assert all((ROOT / source).is_file() for source in site.PAGES.values())


@pytest.mark.parametrize(
    ("source", "link", "on_site"),
    [
        ("README.md", "docs/results.md#outlines", "results.md#outlines"),
        ("README.md", "docs/cubes_ladder.png", "cubes_ladder.png"),
        ("README.md", "CHANGELOG.md", "changelog.md"),
        ("results/README.md", "../docs/numbers.md", "numbers.md"),
        ("docs/slurm.md", "reruns.md", "reruns.md"),
        ("docs/slurm.md", "../README.md#limits", "index.md#limits"),
        ("docs/slurm.md", "#by-hand", "#by-hand"),
        ("docs/slurm.md", "https://snakemake.github.io/x", "https://snakemake.github.io/x"),
    ],
)
def test_links_of_the_forge_become_links_of_the_site(site, source, link, on_site):
    assert site.with_links_of_the_site(f"[text]({link})", source) == f"[text]({on_site})"


def test_lists_of_the_forge_become_lists_of_the_site(site):
    forge = ["Do:", "1. this", "   and wait", "", "   ```", "     code", "   ```", "2. that"]
    there = ["Do:", "", "1. this", "    and wait", "", "    ```", "      code", "    ```", "", "2. that"]
    assert list(site.with_wide_lists(forge)) == there
    assert list(site.with_wide_lists(["```", "key:", "- no list", "```"])) == ["```", "key:", "- no list", "```"]


@pytest.mark.parametrize(
    ("page", "told"), [('<script src="https://x.org/a.js">', True), ('<a href="https://x.org">', False)]
)
def test_a_page_that_loads_from_elsewhere_ends_the_build(site, page, told):
    assert bool(site.ELSEWHERE.search(page)) == told


def test_the_hooks_before_a_commit_are_those_of_make_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [repo["repo"] for repo in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        tool, *_ = hook["entry"].removeprefix(".venv/bin/").split(" --")
        assert hook["language"] == "system"
        assert f"$(BIN)/{tool} " in makefile


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_forms_ask_for_what_made_a_result_and_for_no_patient_data(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids))
    assert "why" in ids
    assert "No patient data" in form["body"][0]["attributes"]["value"]
