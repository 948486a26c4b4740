"""Digests of a package of four lines per module: what an edit changes, and what it does not."""

import pytest

from lungsyn import codedigest

FILES = {
    "__init__.py": "",
    "cli/__init__.py": "from lungsyn.cli import a, evaluation",
    "cli/arguments.py": """
def verb(*names):
    return lambda run: run
def folders(args):
    return [args]
""",
    "cli/a.py": """
from lungsyn.a import first
from lungsyn.cli.arguments import folders, verb
def _options(parser):
    parser.add("x")
@verb("a", "first", _options)
def a_first(args):
    return first(folders(1))
def a_second(args):
    from lungsyn import a
    readers = [a]
    return readers[0].second()
def a_third(args):
    from lungsyn.evaluation.c import third
    third()
""",
    "cli/evaluation.py": """
def evaluation_third(args):
    from lungsyn.evaluation.c import third
    third()
""",
    "a.py": '''
"""Words."""
from lungsyn import b, progress
LIMIT, UNUSED = 3, 4
def first(x):
    """Words."""
    return b.scaled(x) + LIMIT  # a comment
def second():
    progress.say()
''',
    "b.py": """
import numpy as np
np.sort = None
def scaled(x):
    return _inner(x)
def _inner(x):
    return 2 * x
def other(x):
    return x
""",
    "progress.py": "def say(): print(1)",
    "evaluation/__init__.py": "",
    "evaluation/c.py": "def third(): pass",
}
VERBS = [("a", "first"), ("a", "second"), ("a", "third"), ("evaluation", "third")]


@pytest.fixture
def package(tmp_path, monkeypatch):
    for name, text in FILES.items():
        path = tmp_path / "lungsyn" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(codedigest, "ROOT", tmp_path / "lungsyn")
    yield tmp_path / "lungsyn"
    forget()


def forget():
    for function in (codedigest.of_verb, codedigest.uses, codedigest.text, codedigest.read):
        function.cache_clear()


def digests() -> dict:
    forget()
    return {"_".join(verb): codedigest.of_verb(*verb) for verb in VERBS}


@pytest.mark.parametrize(
    ("module", "old", "new", "changed"),
    [
        ("b.py", "2 * x", "3 * x", {"a_first", "a_second"}),  # two steps away; a module used as a value is used whole
        ("b.py", "np.sort = None", "np.sort = 1", {"a_first", "a_second"}),  # runs whenever the module is loaded
        ("b.py", "    return x\n", "    return -x\n", set()),  # nobody calls it
        ("a.py", "LIMIT, UNUSED = 3, 4", "LIMIT, UNUSED = 5, 4", {"a_first", "a_second"}),
        ("a.py", "progress.say()", "progress.say(); b.other(1)", {"a_second"}),
        ("a.py", "Words.", "Other words.", set()),
        ("a.py", "  # a comment", "", set()),
        ("a.py", "b.scaled(x) + LIMIT", "(b.scaled( x )\n        + LIMIT)", set()),
        ("progress.py", "print(1)", "print(2)", set()),  # it says how far a job is, not what comes out
        ("evaluation/c.py", "pass", "return 1", {"evaluation_third"}),  # other stages read its tables
        ("cli/a.py", "folders(1)", "folders(2)", {"a_first"}),  # of one verb, not of its stage
        ("cli/a.py", '"x"', '"y"', set()),  # an option; its value is a parameter of the rule
        ("cli/evaluation.py", "    third()", "    third(1)", {"evaluation_third"}),
        ("cli/arguments.py", "[args]", "[args, args]", {"a_first"}),  # who uses it
        ("cli/arguments.py", "run: run", "run: print(run)", set()),  # registers, whatever it does
    ],
)
def test_an_edit_changes_the_digests_of_those_who_reach_it(package, module, old, new, changed):
    before = digests()
    text = (package / module).read_text()
    assert old in text
    (package / module).write_text(text.replace(old, new))
    after = digests()
    assert {verb for verb in before if before[verb] != after[verb]} == changed


def test_every_rule_of_the_package_reaches_its_stage():
    """On the real package: a training's digest follows its network, losses and patches."""
    forget()
    found = codedigest.reached("generation", "train")
    assert {
        ("lungsyn.generators.core.training", "weighted_loss"), ("lungsyn.generators.networks.patch_unet", "PatchUNet"),
        ("lungsyn.generators.core.schedule", "cosine"), ("lungsyn.volume.files", "open_case"),
    } <= found  # fmt: skip
    assert not [module for module, _ in found if "evaluation" in module or "segmentation" in module]
