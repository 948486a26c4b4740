"""Which code makes a result: a digest per verb, over the definitions that it can reach within the package.

A rule has its verb's digest among its parameters, so an edit reruns the rules whose code it is and what follows from
them, and no others. What is reached is read off the syntax tree, nothing is imported: from the verb's function to the
functions, classes and constants whose names occur in it, and on from there. Comments, docstrings and formatting do
not count; neither does what can be reached by a computed name only (``getattr``), which the package avoids.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import lungsyn

ROOT = Path(lungsyn.__file__).parent
PACKAGE = ROOT.name
COMMANDS = f"{PACKAGE}.cli."  # a module per stage, with its verbs
# Not counted: what checks settings (their values are parameters of the rule), what says where and how a job runs, and
# what only looks on.
LOOKING_ON = ("progress", "live", "provenance", "codedigest")
NOT_COUNTED = {f"{PACKAGE}.{name}" for name in ("errors", "compute", "memory", *LOOKING_ON)}

Key = tuple[str, str]  # module and name of a definition; the name "" stands for the module's other statements


@dataclass(frozen=True)
class Module:
    """One source file: its definitions by name, and what its names mean that come from elsewhere in the package."""

    definitions: dict[str, list[ast.stmt]]
    imported: dict[str, str]


@cache
def of_verb(stage: str, verb: str) -> str:
    """Twelve hex digits over the code behind ``lungsyn stage verb``."""
    digest = hashlib.sha256()
    for key in sorted(reached(stage, verb)):
        digest.update(repr((key, text(*key))).encode())
    return digest.hexdigest()[:12]


def reached(stage: str, verb: str) -> set[Key]:
    """The verb's function and the definitions that it uses, directly or through others.

    Other stages read the tables of the evaluation; how it reads and ranks them is its own code, so that an edit of the
    evaluation never trains anything again.
    """
    found, waiting = set(), [(COMMANDS + stage, f"{stage}_{verb}".replace("-", "_"))]
    while waiting:
        module, name = waiting.pop()
        foreign = module.startswith(f"{PACKAGE}.evaluation") and stage != "evaluation"
        if (module, name) not in found and not uncounted(module) and not foreign:
            found.add((module, name))
            waiting += uses(module, name)
    return found


def uncounted(module: str) -> bool:
    """Whether edits of a module change no result."""
    return module in NOT_COUNTED or module.startswith(f"{PACKAGE}.settings.")


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
def text(module: str, name: str) -> list[str]:
    """The source of a definition as Python would write it."""
    return [ast.unparse(statement) for statement in read(module).definitions.get(name, [])]


@cache
def read(module: str) -> Module:
    """Parse a module; a verb loses its decorator, which only registers it and its options."""
    tree = ast.parse(file_of(module).read_text(encoding="utf-8"))
    remove_docstrings(tree)
    definitions: dict[str, list[ast.stmt]] = {"": []}
    imported = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imported |= imports(statement)
            continue
        if module.startswith(COMMANDS) and isinstance(statement, ast.FunctionDef):
            statement.decorator_list = []
        for name in defined(statement):
            definitions.setdefault(name, []).append(statement)
    return Module(definitions, imported)


def file_of(module: str) -> Path:
    """The source file of a module or, with its ``__init__``, of a package."""
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


def remove_docstrings(tree: ast.Module) -> None:
    """In place; a body of nothing else keeps a ``...``."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module)
        if documented and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Expr(ast.Constant(...))]
