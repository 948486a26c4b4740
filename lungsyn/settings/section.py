"""The base of every section of the config, and the types of its values: units, ranges, what a name may be."""

import json
import os
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


Millimetres = Annotated[float, Field(gt=0.0, le=1000.0)]


Count = Annotated[int, Field(ge=1)]


Percent = Annotated[int, Field(ge=1, le=100)]


def _check_name(name: str) -> str:
    if not name or not all(c.isalnum() or c in "+-_" for c in name):
        raise ValueError(f"name {name!r} becomes a folder: use letters, digits, '+', '-' and '_' only")
    return name


def _check_rising(ends: tuple[float, float]) -> tuple[float, float]:
    if not ends[0] < ends[1]:
        raise ValueError(f"{list(ends)} must rise: low HU, then high HU")
    return ends


def at_home(path: Path) -> Path:
    return Path(os.path.expanduser(path))  # Path's own raises where there is no such user


Name = Annotated[str, AfterValidator(_check_name)]


Window = Annotated[tuple[float, float], AfterValidator(_check_rising)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


SectionType = TypeVar("SectionType", bound=Section)


def as_json(section: BaseModel, without: set[str] | None = None) -> str:
    """A section as one line of JSON, the form in which a rule hands it to the command line."""
    return json.dumps(section.model_dump(mode="json", exclude=without), sort_keys=True, separators=(",", ":"))


def part(section: Section, model: type[SectionType]) -> SectionType:
    """The keys of ``section`` that ``model`` has, so that a rule is not rerun for those that it does not read."""
    return model(**{key: getattr(section, key) for key in model.model_fields})
