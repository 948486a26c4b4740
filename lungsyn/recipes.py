"""When new code makes results again: recipe numbers, raised by hand where results change.

A verb has its number where it is registered (``lungsyn.cli``), a family has it in its class (``lungsyn.seams``). The
recipe of a job is both as one text, such as ``train-1+patch_ddpm-2``: that is a parameter of its rule, and the name of
the folder of a training's checkpoints. A bare number would not do as a parameter: Snakemake compares the values of all
parameters as one set, without their names, and another may have the same number.
"""

import re
from dataclasses import dataclass

from lungsyn import codedigest
from lungsyn.registry import family, kinds


@dataclass(frozen=True)
class Recipe:
    """The number of a verb, and the seams whose families take part in it, in the order in which jobs name them."""

    number: int
    seams: tuple[str, ...] = ()


OF_VERBS: dict[tuple[str, str], Recipe] = {}  # filled by lungsyn.cli; only verbs that are rules have one


def recipe_of(stage: str, verb: str, *of_kinds: str) -> str:
    """The recipe of a job; ``of_kinds``: the kind of family for each seam of its verb."""
    own = OF_VERBS[stage, verb]
    families = zip(own.seams, of_kinds, strict=True)
    numbers = [(verb, own.number), *((kind, family(seam, kind).recipe) for seam, kind in families)]
    return "+".join(f"{name}-{number}" for name, number in numbers)


def code_of(stage: str, verb: str, *of_kinds: str) -> str:
    """The digest of a job's code, that of its families included."""
    families = zip(OF_VERBS[stage, verb].seams, of_kinds, strict=True)
    keys = [(kinds(seam)[kind], "Family") for seam, kind in families]
    return codedigest.of(codedigest.key_of_verb(stage, verb), *keys)


def recorded(params: list[str], verb: str) -> str | None:
    """The recipe among a job's parameters, as Snakemake has recorded them; None where an older version ran it.

    >>> recorded(["'train-1+patch_ddpm-2'", "7"], "train")
    'train-1+patch_ddpm-2'
    """
    found = (re.fullmatch(rf"'({verb}-\d+(\+.+)?)'", str(value)) for value in params)
    return next((match[1] for match in found if match), None)
