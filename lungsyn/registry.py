"""Which kinds of generators, segmenters, mask sources and readers there are, and where.

A kind is a module: one of the seam's own folder (``lungsyn/generators/patch_gan.py`` is the kind ``patch_gan``), or
one that another installed package names by an entry point, in the group ``lungsyn.generators`` and so on. The module
has a class ``Family`` that does what ``lungsyn.seams`` asks for. Nothing is loaded before it is asked for.
"""

import pkgutil
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from lungsyn.errors import InputError

FOLDERS = {
    "generators": "lungsyn.generators",
    "segmenters": "lungsyn.segmenters",
    "masks": "lungsyn.masks",
    "readers": "lungsyn.cohort.readers",
}


@cache
def kinds(seam: str) -> dict[str, str]:
    """The kinds of a seam and the modules that they are. Raises InputError where two modules are one kind.

    >>> kinds("generators")["copy_paste"]
    'lungsyn.generators.copy_paste'
    """
    folder = import_module(FOLDERS[seam])
    found = {m.name: f"{folder.__name__}.{m.name}" for m in pkgutil.iter_modules(folder.__path__) if not m.ispkg}
    for entry in entry_points(group=f"lungsyn.{seam}"):
        if found.setdefault(entry.name, entry.value) != entry.value:
            raise InputError(
                f"{seam}: the kind {entry.name!r} is both {found[entry.name]} and {entry.value}: rename one"
            )
    return dict(sorted(found.items()))


@cache
def family(seam: str, kind: str) -> Any:
    """The family of a kind. Raises InputError where there is none, or where its module cannot be loaded.

    >>> family("generators", "copy_paste").trains
    False
    """
    module = kinds(seam).get(kind)
    if module is None:
        raise InputError(f"{seam}: there is no kind {kind!r}; it must be one of {', '.join(kinds(seam))}")
    try:
        return import_module(module).Family()
    except Exception as error:  # whatever another package does when it is loaded
        raise InputError(f"{seam}: {kind!r} cannot be loaded from {module} ({error!r})") from error


def families(seam: str) -> dict[str, Any]:
    """All families of a seam, by kind."""
    return {kind: family(seam, kind) for kind in kinds(seam)}
