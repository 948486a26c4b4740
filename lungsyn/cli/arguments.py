"""What the verbs are made of: their register, the kinds of arguments, and the folders that arguments name."""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.folds import of_training_set
from lungsyn.memory import peak_host_mb
from lungsyn.recipes import OF_VERBS, Recipe, recipe_of
from lungsyn.settings.checking import from_json
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import Section
from lungsyn.volume.files import read_json

NUMBERS = ("size", "replicate")  # among the columns that say what a result is of
VERBS: dict[tuple[str, str], tuple[Callable, Callable]] = {}


def verb(
    stage: str, name: str, arguments: Callable[[argparse.ArgumentParser], None], recipe: int = 0, seams: tuple = ()
) -> Callable:
    """Register the decorated function as ``lungsyn stage name``; verbs of ``study`` are called by their name alone.

    What the verb returns, if anything, is what it knows of its job's cost: a training that went on, what it is of.
    It is ``{stage}_{name}`` in the module of its stage: there its code's digest is taken from. ``recipe``: of a verb
    that is a rule; raise it when the verb's results change. ``seams``: whose families take part.
    """

    def register(run: Callable) -> Callable:
        VERBS[stage, name] = (run, arguments)
        if recipe:
            OF_VERBS[stage, name] = Recipe(recipe, seams)
        return run

    return register


def section(model: type[Section]) -> Callable[[str], Section]:
    """An argument type: a section of the config as JSON."""

    def parse(text: str) -> Section:
        try:
            return from_json(model, text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parse.__name__ = "section"
    return parse


def case_folders(paths: list[Path]) -> list[Path]:
    """The case folders that ``paths`` name: a case.json, a case's folder, or a folder of cases; in the given order,
    sorted within."""
    folders = []
    for path in paths:
        if path.name == "case.json":
            folders.append(path.parent)
        elif (path / "case.json").is_file():
            folders.append(path)
        else:
            folders += sorted(file.parent for file in path.glob("*/case.json"))
    return folders


def attempts(batches: list[Path]) -> list[dict]:
    """The records of every volume that was made for a set, kept or not, from the folders of its batches."""
    return [record for folder in batches for record in read_json(folder / "attempts.json")["attempts"]]


def cost_since(started: float) -> dict:
    """What this process took since ``started`` (`time.monotonic`): the cost of a training that does not say its own."""
    return {"seconds": round(time.monotonic() - started, 1), "host_mb": peak_host_mb()}


def known_cost(facts: Mapping) -> dict:
    """What a training knows of its cost, also that of the processes that it went on from; for its verb to return."""
    return dict(facts.get("cost", {})) | {key: facts[key] for key in ("ran_on",) if key in facts}


def rejected_picture(record: Mapping) -> str:
    """Where, in its batch's folder, the small picture of a rejected attempt lies: it is written and found by this."""
    return f"rejected/{record['volume']}-{record['attempt']}.npz"


def add(parser: argparse.ArgumentParser, *names: str, **options) -> None:
    """Add required path arguments; ``nargs`` and the like as for argparse."""
    for name in names:
        parser.add_argument(f"--{name}", required=True, **({"type": Path} | options))


def add_section(parser: argparse.ArgumentParser, **models: type[Section]) -> None:
    for name, model in models.items():
        parser.add_argument(f"--{name}", required=True, type=section(model), metavar="JSON")


def add_compute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compute", type=section(Compute), default=Compute(), metavar="JSON")


def add_numbers(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(f"--{name}", required=True, type=int)


class Of(argparse.Action):
    """``--of arm=real size=50``: a dict of exactly these columns, sizes and replicates as numbers. A ``size`` is one of
    a fold where there are folds: ``size=50-fold2`` is the two columns ``size`` and ``fold``."""

    def __init__(self, *args, columns: tuple[str, ...], **options):
        self.columns = columns
        super().__init__(*args, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        found = dict(value.partition("=")[::2] for value in values)
        if set(found) != set(self.columns):
            parser.error(f"--of takes {self.metavar}, not {' '.join(values)}")
        try:
            replicate = {"replicate": int(found["replicate"])} if "replicate" in found else {}
            of_size = of_training_set(found["size"])
        except ValueError:
            parser.error(f"--of takes whole numbers as {' and '.join(NUMBERS)}, not {' '.join(values)}")
        named = {column: found[column] for column in self.columns if column not in NUMBERS}
        namespace.of = named | of_size | replicate


def add_of(parser: argparse.ArgumentParser, *columns: str) -> None:
    """What the result is of: the rule says it once, here, and every table and file that comes of it has it as columns
    or keys."""
    metavar = " ".join(f"{column}=..." for column in columns)
    parser.add_argument("--of", required=True, nargs="+", action=Of, columns=columns, metavar=metavar)


def checkpoints_of(args, *kinds: str) -> Path:
    """A training goes on from a checkpoint of the same recipe only; settings, seed and cases name the folder within."""
    return args.checkpoints / recipe_of(*args.rule, *kinds)
