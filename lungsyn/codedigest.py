"""Which code makes a result: a digest over the definitions that a verb or a family can reach within the package.

It reruns nothing; recipe numbers do that (``lungsyn.recipes``). It is noted in results, and a test asks whether results
change when it does. What is reached is read off the syntax tree, nothing is imported: from a function or class to the
functions, classes and constants whose names occur in it, and on from there. Comments, docstrings, formatting, help
texts, the messages of errors and moves to another module do not count. Neither does what is reached by a computed name:
that is how a verb finds its family (``lungsyn.registry``), so no family is in the digest of a verb or of another one.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import lungsyn

ROOT = Path(lungsyn.__file__).parent
PACKAGE = ROOT.name
COMMANDS = f"{PACKAGE}.cli."  # a module per stage, with its verbs
# Not counted: what says where and how a job runs, what explains a mistake, and what only looks on.
RUNNING = ("compute", "memory", "settings.compute", "errors", "settings.checking")
LOOKING_ON = ("progress", "live", "provenance", "codedigest", "recipes")
NOT_COUNTED = {f"{PACKAGE}.{name}" for name in (*RUNNING, *LOOKING_ON)}

Key = tuple[str, str]  # module and name of a definition; the name "" stands for the module's other statements


@dataclass(frozen=True)
class Module:
    """One source file: its definitions by name, and what its names mean that come from elsewhere in the package."""

    definitions: dict[str, list[ast.stmt]]
    imported: dict[str, str]


def of_verb(stage: str, verb: str) -> str:
    """The digest of the code behind ``lungsyn stage verb``, without that of the families which take part."""
    return of(key_of_verb(stage, verb))


def key_of_verb(stage: str, verb: str) -> Key:
    """The verb's function in the module of its stage."""
    return COMMANDS + stage, f"{stage}_{verb}".replace("-", "_")


@cache
def of(*starts: Key) -> str:
    """Twelve hex digits over the code that can be reached from these definitions, in whichever module it stands."""
    texts = sorted(repr((name, syntax(module, name))) for module, name in reached(*starts))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def reached(*starts: Key) -> set[Key]:
    """These definitions and those that they use, directly or through others."""
    found, waiting = set(), list(starts)
    while waiting:
        module, name = waiting.pop()
        if (module, name) not in found and module not in NOT_COUNTED:
            found.add((module, name))
            waiting += uses(module, name)
    return found


@cache
def uses(module: str, name: str) -> set[Key]:
    """What one definition mentions of the package, and the statements that run when its module is loaded."""
    here = read(module)
    found = {(module, "")} if not module.startswith(COMMANDS) else set()
    for statement in here.definitions.get(name, []):
        imported = here.imported | imports(statement)
        for dotted in names(statement):
            first, _, rest = dotted.partition(".")
            if first in imported:
                found |= split(f"{imported[first]}.{rest}".rstrip("."))
            elif first in here.definitions:
                found.add((module, first))
    return found


@cache
def syntax(module: str, name: str) -> list:
    """A definition as nested lists."""
    return plain(read(module).definitions.get(name, []))


def plain(node):
    """Syntax as nested lists. Empty fields are left out: versions of Python differ in them. So are imports."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return []
    if isinstance(node, ast.AST):
        return [type(node).__name__, *([k, plain(v)] for k, v in ast.iter_fields(node) if v not in (None, []))]
    return [plain(part) for part in node] if isinstance(node, list) else repr(node)


@cache
def read(module: str) -> Module:
    """Parse a module; of a verb's decorator there stay its options, whose defaults may count."""
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    remove_words(tree)
    definitions: dict[str, list[ast.stmt]] = {"": []}
    imported = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imported |= imports(statement)
            continue
        if module.startswith(COMMANDS) and isinstance(statement, ast.FunctionDef):
            statement.decorator_list = [d.args[2] if isinstance(d, ast.Call) else d for d in statement.decorator_list]
        for name in defined(statement):
            definitions.setdefault(name, []).append(statement)
    return Module(definitions, imported)


def file_of(module: str) -> Path:
    """The source file of a module or, with its ``__init__``, of a package; a family may be in somebody else's."""
    if module.partition(".")[0] != PACKAGE:
        return Path(find_spec(module).origin)
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def defined(statement: ast.stmt) -> list[str]:
    """The names that a top-level statement defines; [""] if it does something else."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    elements = [e for target in targets for e in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [element.id if isinstance(element, ast.Name) else "" for element in elements]


def imports(statement: ast.stmt) -> dict[str, str]:
    """Names that ``statement`` and what is inside it import from the package: {name here: full name there}."""
    found = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            inside = [alias for alias in node.names if alias.name.split(".")[0] == PACKAGE]
            found |= {alias.asname or PACKAGE: alias.name if alias.asname else PACKAGE for alias in inside}
    return found


def names(node: ast.AST) -> Iterator[str]:
    """Every name and dotted name in ``node``, each at its longest: ``a.b`` is not also ``a``."""
    if isinstance(node, ast.Name):
        yield node.id
        return
    if isinstance(node, ast.Attribute):
        head, rest = node.value, node.attr
        while isinstance(head, ast.Attribute):
            head, rest = head.value, f"{head.attr}.{rest}"
        if isinstance(head, ast.Name):
            yield f"{head.id}.{rest}"
            return
    for child in ast.iter_child_nodes(node):
        yield from names(child)


def split(dotted: str) -> set[Key]:
    """Full name to (module, definition); a module that is used as a value is used whole."""
    parts = dotted.split(".")
    end = 1
    while end < len(parts) and file_of(".".join(parts[: end + 1])).is_file():
        end += 1
    module = ".".join(parts[:end])
    if end < len(parts):
        return {(module, parts[end])}
    return {(module, name) for name in read(module).definitions}


def remove_words(tree: ast.Module) -> None:
    """What only says something, in place: docstrings, help texts, messages of errors. An empty body keeps a ``...``."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Expr(ast.Constant(...))]
        elif isinstance(node, ast.Call):
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in ("help", "description")]
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
