"""``segmenters``: what finds nodules, how it predicts, what it takes part in.

The keys of a segmenter are those below and those of its family, which is a module of ``lungsyn.segmenters``.
"""

from functools import cache
from typing import Annotated, Literal

from pydantic import Field, create_model

from lungsyn.errors import InputError
from lungsyn.registry import family
from lungsyn.settings.kinds import OfKind
from lungsyn.settings.section import Name, Percent, Section, part

DEFAULT_KIND = "monai"


class Prediction(Section):
    """What is done with every segmenter's prediction: changing it trains nothing again, except what aims at it."""

    keep_lungs: bool = Field(default=True, description="Predictions far from aerated lung are removed")


class Trial(Section):
    """A segmenter in the study: its family, and what it takes part in."""

    kind: str = Field(default=DEFAULT_KIND, description="Family of the segmenter")
    arms: list[Name] | None = Field(default=None, min_length=1, description="Arms that it is trained in; null: all")
    training_percent: list[Percent] | None = Field(
        default=None, min_length=1, description="Training-set sizes that it is trained at; null: all"
    )


@cache
def trial_model(kind: str) -> type[Trial]:
    """The keys of a segmenter of this kind. Raises InputError where there is none, or where two have one name."""
    parts = (Trial, Prediction, family("segmenters", kind).Settings, family("segmenters", kind).Inference)
    keys = [key for model in parts for key in model.model_fields]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InputError(f"segmenters: the kind {kind!r} names {', '.join(twice)}, which is another key: rename it")
    default = DEFAULT_KIND if kind == DEFAULT_KIND else ...
    named = Literal[kind], Field(default=default, description=Trial.model_fields["kind"].description)
    return create_model(f"{kind.title().replace('_', '')}Trial", __base__=parts, kind=named)


AnyTrial = Annotated[Trial, OfKind("segmenters", trial_model, DEFAULT_KIND)]


@cache
def inference_model(kind: str) -> type[Prediction]:
    """The settings that only the prediction of a segmenter of this kind reads."""
    return create_model("Inference", __base__=(Prediction, family("segmenters", kind).Inference))


def settings_of(trial: Trial) -> Section:
    """The part of a segmenter that its training reads: what travels with its weights."""
    return part(trial, family("segmenters", trial.kind).Settings)


def inference_of(trial: Trial) -> Prediction:
    """The part of a segmenter that only its prediction reads."""
    return part(trial, inference_model(trial.kind))
