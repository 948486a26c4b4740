"""A section of the config that is of one of several kinds: each has keys of its own, which the registry knows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from lungsyn.registry import kinds
from lungsyn.settings.section import Section

UNKNOWN = "unknown_kind"  # the type of the error


@dataclass(frozen=True)
class OfKind:
    """To annotate a type with: the value's ``kind`` (``default`` where it says none) chooses what checks it.

    ``model_of`` gives the model of a kind. Only the kinds that a config names are loaded, so a family's file may import
    what it likes; the schema is that of all.
    """

    seam: str
    model_of: Callable[[str], type[Section]]
    default: str | None = None

    def check(self, value: Any) -> Section:
        """The value as the model of its kind. Raises ValidationError."""
        if not isinstance(value, dict | Section):
            return Section.model_validate(value)  # which says what a section is
        kind = value.get("kind", self.default) if isinstance(value, dict) else getattr(value, "kind", self.default)
        if not isinstance(kind, str) or kind not in kinds(self.seam):
            unknown = PydanticCustomError(UNKNOWN, "it must be one of {kinds}", {"kinds": self.known})
            told = unknown if kind is None or isinstance(kind, str) else "string_type"
            raise ValidationError.from_exception_data(
                self.seam, [InitErrorDetails(type=told, loc=("kind",), input=kind)]
            )
        return self.model_of(kind).model_validate(value)

    @property
    def known(self) -> str:
        return ", ".join(map(repr, kinds(self.seam)))

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Callable) -> dict:
        models = {kind: self.model_of(kind).__pydantic_core_schema__ for kind in kinds(self.seam)}
        return handler(core_schema.tagged_union_schema(models, discriminator="kind"))
