"""A section of the config that is of one of several kinds: each has keys of its own, which the registry knows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, create_model
from pydantic_core import core_schema

from lungsyn.registry import kinds
from lungsyn.settings.section import Section


@dataclass(frozen=True)
class OfKind:
    """To annotate a type with: the value's ``kind`` (``default`` where it says none) chooses what checks it.

    ``model_of`` gives the model of a kind. Only the kinds that a config names are loaded; the schema is that of all.
    """

    seam: str
    default: str
    model_of: Callable[[str], type[Section]]

    def check(self, value: Any) -> Section:
        """The value as the model of its kind. Raises ValidationError."""
        named = create_model("Named", kind=(Annotated[str, AfterValidator(self._is_known)], Field(self.default)))
        kind = named.model_validate(value, from_attributes=True).kind
        return self.model_of(kind).model_validate(value)

    def _is_known(self, kind: str) -> str:
        if kind not in kinds(self.seam):
            raise ValueError(f"there is no kind {kind!r}: it must be one of {', '.join(map(repr, kinds(self.seam)))}")
        self.model_of(kind)  # here, so that a family that cannot be loaded is told of at this key
        return kind

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: Callable) -> dict:
        models = {kind: self.model_of(kind).__pydantic_core_schema__ for kind in kinds(self.seam)}
        return handler(core_schema.tagged_union_schema(models, discriminator="kind"))
