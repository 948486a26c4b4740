"""`make recipes`: note the recipe and the digest of the code of every verb and family, as they are now.

A test (tests/test_recipes.py) fails while the code is another than the noted one. Who changed it then says whether
results change: they raise the recipe number, or leave it, and give this command.
"""

from importlib.util import find_spec
from pathlib import Path

from lungsyn import cli, codedigest, recipes, registry
from lungsyn.volume.tables import read_table, write_table
from tests.conftest import ROOT

NOTED = ROOT / "tests/recipes.tsv"
COLUMNS = ["name", "recipe", "code"]


def current() -> dict[str, dict]:
    """Verbs that are rules, and the families of this package, by name; ``place``: the file with the recipe number."""
    verbs = {
        f"{stage} {verb}": (recipe.number, codedigest.of_verb(stage, verb), cli.VERBS[stage, verb][0].__module__)
        for (stage, verb), recipe in recipes.OF_VERBS.items()
    }
    families = {
        f"{seam} {kind}": (registry.family(seam, kind).recipe, codedigest.of((module, "Family")), module)
        for seam, folder in registry.FOLDERS.items()
        if find_spec(folder)
        for kind, module in registry.kinds(seam).items()
        if module.startswith(f"{codedigest.PACKAGE}.")
    }
    return {
        name: {"name": name, "recipe": str(number), "code": code, "place": module.replace(".", "/") + ".py"}
        for name, (number, code, module) in sorted((verbs | families).items())
    }


def noted(path: Path = NOTED) -> dict[str, dict]:
    """What was noted last."""
    return {row["name"]: row for row in read_table(path, COLUMNS)} if path.is_file() else {}


def differences(then: dict[str, dict], now: dict[str, dict]) -> list[str]:
    """A line for everything that is not as it was noted."""
    return [line for name in sorted(then | now) if (line := difference(name, then.get(name), now.get(name)))]


def difference(name: str, then: dict | None, now: dict | None) -> str:
    """What became of a verb or family, in a line; empty: nothing."""
    if then is None or now is None:
        return f"{name}: new" if now else f"{name}: gone"
    before, recipe = int(then["recipe"]), int(now["recipe"])
    if recipe < before:
        return f"{name}: the recipe in {now['place']} went from {before} down to {recipe}; it must rise"
    if recipe > before:
        return f"{name}: the recipe rose from {before} to {recipe}, so its results are made again"
    if then["code"] != now["code"]:
        return (
            f"{name}: the code changed, the recipe in {now['place']} is still {recipe}, so its results stay as they are"
        )
    return ""


def main() -> None:
    now = current()
    print("\n".join(differences(noted(), now)) or "nothing changed")
    write_table(NOTED, [{key: row[key] for key in COLUMNS} for row in now.values()], COLUMNS)


if __name__ == "__main__":
    main()
