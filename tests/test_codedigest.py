"""Digests of a package of four lines per module: what an edit changes, and what it does not."""

import ast
from importlib.util import find_spec

import pytest

from lungsyn import cli, codedigest, recipes, registry  # noqa: F401  the first has the verbs
from lungsyn.generators.core.family import PatchFamily

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
    parser.add("x", help="Words.")
@verb("a", "first", _options, recipe=1)
def a_first(args):
    if not args:
        raise ValueError("Words.")
    return first(folders(1))
def a_second(args):
    from lungsyn import a
    readers = [a]
    return readers[0].second()
def a_third(args):
    from lungsyn.evaluation.c import third
    third()
def a_fourth(args):
    from lungsyn.registry import family
    family("makers", args.kind).make()
""",
    "registry.py": """
def family(seam, kind):
    return import_module(f"lungsyn.{seam}.{kind}").Family()
""",
    "makers/__init__.py": "",
    "makers/one.py": """
from lungsyn.b import scaled
from lungsyn.makers.core import loop
class Family:
    recipe = 1
    def make(self):
        return loop(scaled)
""",
    "makers/two.py": """
from lungsyn.makers.core import loop
class Family:
    def make(self):
        return loop(sum)
""",
    "makers/core.py": """
def loop(step):
    return step(1)
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
VERBS = [("a", "first"), ("a", "second"), ("a", "third"), ("a", "fourth"), ("evaluation", "third")]
FAMILIES = ["one", "two"]


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
    for function in (codedigest.of, codedigest.uses, codedigest.syntax, codedigest.read):
        function.cache_clear()


def digests() -> dict:
    forget()
    verbs = {"_".join(verb): codedigest.of_verb(*verb) for verb in VERBS}
    return verbs | {name: codedigest.of((f"lungsyn.makers.{name}", "Family")) for name in FAMILIES}


@pytest.mark.parametrize(
    ("module", "old", "new", "changed"),
    [
        (
            "b.py",
            "2 * x",
            "3 * x",
            {"a_first", "a_second", "one"},
        ),  # two steps away; a module used as a value is used whole
        ("b.py", "np.sort = None", "np.sort = 1", {"a_first", "a_second", "one"}),  # runs whenever the module is loaded
        ("b.py", "    return x\n", "    return -x\n", set()),  # nobody calls it
        ("a.py", "LIMIT, UNUSED = 3, 4", "LIMIT, UNUSED = 5, 4", {"a_first", "a_second"}),
        ("a.py", "progress.say()", "progress.say(); b.other(1)", {"a_second"}),
        ("a.py", "Words.", "Other words.", set()),
        ("a.py", "  # a comment", "", set()),
        ("a.py", "b.scaled(x) + LIMIT", "(b.scaled( x )\n        + LIMIT)", set()),
        ("progress.py", "print(1)", "print(2)", set()),  # it says how far a job is, not what comes out
        ("evaluation/c.py", "pass", "return 1", {"a_third", "evaluation_third"}),
        ("cli/a.py", "folders(1)", "folders(2)", {"a_first"}),  # of one verb, not of its stage
        ("cli/a.py", '"x"', '"y"', {"a_first"}),  # an option, which may have a default
        ("cli/a.py", "Words.", "Other words.", set()),  # a help text, and the message of an error
        ("cli/a.py", "recipe=1", "recipe=2", set()),
        (
            "makers/one.py",
            "scaled)",
            "sum)",
            {"one"},
        ),  # no other family's, and none of the verb's that it takes part in
        ("makers/core.py", "step(1)", "step(2)", {"one", "two"}),
        ("registry.py", "Family()", "Family(1)", {"a_fourth"}),
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


def test_a_move_to_another_module_is_no_edit(package):
    before = digests()
    (package / "b.py").rename(package / "c.py")
    for name, old, new in (("a.py", "import b,", "import c as b,"), ("makers/one.py", "lungsyn.b ", "lungsyn.c ")):
        (package / name).write_text((package / name).read_text().replace(old, new))
    (package / "cli/a.py").write_text((package / "cli/a.py").read_text().replace("lungsyn.evaluation.c", "lungsyn.d"))
    (package / "d.py").write_text((package / "evaluation/c.py").read_text())
    assert digests() == before


def test_versions_of_python_differ_in_empty_fields_only():
    """Python 3.12 gave functions type parameters; a digest from 3.11 must hold there."""
    function = ast.parse("def f(x): return g(x)").body[0]
    before = codedigest.plain(function)
    function._fields, function.another = (*function._fields, "another"), []
    assert codedigest.plain(function) == before
    function.another = [ast.Name("T")]
    assert codedigest.plain(function) != before


OF_PATCHES = [kind for kind, family in registry.families("generators").items() if isinstance(family, PatchFamily)]


@pytest.mark.parametrize("kind", OF_PATCHES)
def test_a_generator_reaches_its_training_and_its_sampling(kind):
    """On the real package, through whatever its family inherits."""
    forget()
    found = codedigest.reached((registry.kinds("generators")[kind], "Family"))
    core, networks = "lungsyn.generators.core", "lungsyn.generators.networks"
    assert {
        (f"{core}.training", "train"), (f"{core}.settings", "TrainingSettings"), ("lungsyn.volume.files", "open_case"),
        (f"{core}.patches", "TrainingPatches"),
    } <= found  # fmt: skip
    at_once = {
        "style_gan": (f"{networks}.playing", "StyleGenerator"),
        "ha_gan": (f"{networks}.fields", "FieldGenerator"),
    }
    assert at_once.get(kind, (f"{core}.synthesis", "synthesise")) in found
    own = {
        "latent_ddpm": (f"{networks}.latent", "DenoisingLatents"), "patch_gan": (f"{networks}.critic", "Judged"),
        "joint_ddpm": (f"{networks}.joint", "DenoisingBoth"), "style_gan": (f"{networks}.playing", "Playing"),
        "ha_gan": (f"{networks}.hierarchical", "Networks"),
    }  # fmt: skip
    assert {other for other, key in own.items() if key in found} == {kind} & own.keys()


def test_a_generator_of_released_weights_reaches_what_reads_them_and_its_training():
    forget()
    found = codedigest.reached((registry.kinds("generators")["maisi"], "Family"))
    networks = "lungsyn.generators.networks"
    wanted = {(f"{networks}.maisi", name) for name in ("fine_tune", "case_loss", "Maisi", "MaisiGenerator")}
    assert wanted | {(f"{networks}.released", "filled"), ("lungsyn.generators.core.samplers", "sample")} <= found


def test_no_family_is_in_the_digest_of_a_verb_or_of_another_family():
    """So an edit of the GAN asks nobody about the diffusion model."""
    forget()
    modules = {
        module: seam
        for seam in registry.FOLDERS
        if find_spec(registry.FOLDERS[seam])
        for module in registry.kinds(seam).values()
    }
    for job in recipes.OF_VERBS:
        assert not modules.keys() & {module for module, _ in codedigest.reached(codedigest.key_of_verb(*job))}, job
    for module in modules:
        others = modules.keys() - {module}
        assert not others & {reached for reached, _ in codedigest.reached((module, "Family"))}, module
