"""From the text of ``config.yaml`` and its overlays to a checked study, or to messages that say what to change.

Every key has a unit, a range and a description; an unknown key, a wrong type or a value out of range ends the run
before any job, with the key, the value, the rule and the way out. ``workflow/schemas/config.schema.yaml`` is generated
from these models (``lungsyn config schema``), so an editor can check a config while it is written.
"""

import difflib
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from lungsyn.errors import InputError
from lungsyn.settings.kinds import UNKNOWN
from lungsyn.settings.section import SectionType
from lungsyn.settings.study import Config


def read(files: Sequence[Path]) -> dict:
    """A config and its overlays as Snakemake merges them: dicts key by key, everything else replaced. Raises InputError
    naming the file."""
    merged: dict = {}
    for file in files:
        if not file.is_file():
            raise InputError(f"{file}: no such file; run this in the folder that holds config.yaml and Snakefile")
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: not YAML ({error})") from None
        if not isinstance(content, dict):
            raise InputError(f"{file}: holds no keys; config.yaml shows what a config looks like")
        merged = merge(merged, content)
    return merged


def merge(base, overlay):
    """``overlay`` upon ``base``: dicts key by key, everything else replaced."""
    if not isinstance(base, dict) or not isinstance(overlay, dict):
        return overlay
    return base | {key: merge(base.get(key), value) for key, value in overlay.items()}


def check(raw: dict) -> Config:
    """The config as a frozen model. Raises InputError with one line per mistake: key, value, rule, way out."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise InputError("the config is not usable:\n" + "\n".join(f"  {line}" for line in _lines(error))) from None


A_NUMBER, OR_AUTO = "constrained-int", "literal['auto']"  # how pydantic calls the two of "a number, or auto"


def _lines(error: ValidationError) -> list[str]:
    """One for each mistake: a value that is neither a number nor ``auto`` is one mistake."""
    return [_explain(item) for item in error.errors() if item["loc"][-1:] != (OR_AUTO,)]


def _explain(item: dict) -> str:
    loc = item["loc"]
    key = ".".join(str(part) for part in loc if part not in ("[key]", A_NUMBER))
    otherwise = ", or auto" if A_NUMBER in loc else ""
    if item["type"] == "extra_forbidden":
        known = _all_keys()
        if item["loc"][-1] in known:
            return f"{key}: no key of this section; remove it"
        near = difflib.get_close_matches(str(item["loc"][-1]), known, n=1)
        return f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "; remove it")
    if item["type"] == "missing":
        return f"{key}: missing; add it (config.yaml and workflow/experiments show every key with its unit)"
    if item["type"] == UNKNOWN:
        said = "missing" if item["input"] is None else f"is {item['input']!r}"
        return f"{key} {said}: {item['msg']}"
    if item["type"] == "string_type" and (kind := _read_by_yaml_as(item["input"])):
        what = f"{'.'.join(map(str, loc[:-2]))} has the name" if loc[-1] == "[key]" else f"{key} is"
        return f"{what} {item['input']}, which YAML takes for {kind}: write it in quotes"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} is {item['input']!r}: {message[0].lower()}{message[1:]}{otherwise}"


def _read_by_yaml_as(value) -> str:
    """What became of a name without quotes, such as 0001 (which is 1), 1.0e5, no, on, 2024-11-30 or ~."""
    kinds = {bool: "yes or no", int: "a number", float: "a number", date: "a date", datetime: "a date"}
    return kinds.get(type(value), "nothing" if value is None else "")


def _all_keys() -> set[str]:
    schema = Config.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    return {key for model in models for key in model.get("properties", {})}


def from_json(model: type[SectionType], text: str) -> SectionType:
    """The inverse of ``as_json``. Raises InputError naming the key."""
    try:
        return TypeAdapter(model).validate_json(text)
    except ValidationError as error:
        raise InputError("\n".join(_lines(error))) from None


def schema_yaml() -> str:
    """The schema of config.yaml, as the text of workflow/schemas/config.schema.yaml."""
    head = "# Made from lungsyn/settings by `lungsyn config schema`; do not edit.\n"
    return head + yaml.safe_dump(Config.model_json_schema(), sort_keys=False, width=110)
