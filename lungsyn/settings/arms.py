"""``arms``: what a segmenter is trained on, and how it uses it."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lungsyn.settings.section import Count, Fraction, Name, Section


class Found(Section):
    """Which cases of a synthetic set are used: those whose nodules the benchmark's segmenter finds."""

    least_dice: Fraction = Field(description="Least Dice of a used case's new nodules, as the benchmark finds them")
    hard_times: Count = Field(
        default=1, le=100, description="How often the harder half of the used cases counts; the other half counts once"
    )


class Mixing(Section):
    """Patches of real cases that are made from two cases, anew at every step."""

    way: Literal["carvemix", "paste", "twin"] = Field(
        description="carvemix: a nodule with what is near it takes the place of the other's voxels; paste: a nodule is "
        "varied and blended into the other's lung; twin: a real case and its twin in the synthetic set, faded"
    )
    share: Fraction = Field(default=0.5, description="Share of the patches of real cases that are mixed")

    @property
    def of_twins(self) -> bool:
        """Whether the second case is a synthetic one with the masks of the first."""
        return self.way == "twin"


class Use(Section):
    """How a training uses its cases. A family of segmenters says which of these keys it can do (``ways``)."""

    synthetic_share: Fraction | None = Field(
        default=None, description="Share of the training patches that are synthetic; null: by the number of cases"
    )
    pretrain: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Fraction of the steps, the first ones, on synthetic cases only; real ones follow"
    )
    mixing: Mixing | None = Field(default=None, description="How patches of two cases are mixed; null: not")
    match_noise: bool = Field(default=False, description="Give synthetic patches the noise of real cases, or blur them")

    @property
    def ways(self) -> set[str]:
        """The keys that are set, beyond the share, which every family can do."""
        return {key for key in Use.model_fields if key != "synthetic_share" and getattr(self, key)}


class Arm(Use):
    """An arm of the study."""

    real: bool = Field(description="Whether the real train cases are in the training set")
    synthetic: Name | None = Field(default=None, description="Synthetic set in the training set")
    found: Found | None = Field(
        default=None, description="Which cases of the set are used: those that the benchmark finds; null: all"
    )
    reseeded: bool = Field(default=False, description="A control: the data of an arm that is not, other random draws")

    @model_validator(mode="after")
    def _has_data(self):
        if not self.real and self.synthetic is None:
            raise ValueError("an arm needs real data, a synthetic set, or both")
        if self.synthetic_share is not None and not (self.real and self.synthetic):
            raise ValueError(
                f"synthetic_share {self.synthetic_share:g} divides the patches between real and synthetic cases, but "
                "the arm has only one kind: remove it"
            )
        if self.pretrain is not None and not (self.real and self.synthetic):
            raise ValueError(
                f"pretrain {self.pretrain:g} is of synthetic cases, then of real ones, but the arm has only one kind: "
                "remove it"
            )
        if self.pretrain is not None and self.synthetic_share is not None:
            raise ValueError("pretrain says when patches are synthetic, and synthetic_share how many: remove one")
        if self.found is not None and self.synthetic is None:
            raise ValueError("found chooses among synthetic cases, and the arm has none: remove it")
        if self.mixing is not None and not self.real:
            raise ValueError("mixing is of real cases, and the arm has none: remove it")
        if self.match_noise and not (self.real and self.synthetic):
            raise ValueError(
                "match_noise gives synthetic cases the noise of real ones; the arm lacks either: remove it"
            )
        return self


def described(arm: Arm) -> str:
    """What an arm is trained on, in words.

    >>> described(Arm(real=True, synthetic="made", pretrain=0.25))
    'the synthetic set “made” in the first 25 % of the steps, then the real cases'
    """
    real, made = "the real cases", f"the synthetic set “{arm.synthetic}”"
    if arm.synthetic is None:
        text = real
    elif not arm.real:
        text = made
    elif arm.pretrain is not None:
        text = f"{made} in the first {100 * arm.pretrain:g} % of the steps, then {real}"
    elif arm.synthetic_share is not None:
        text = f"{real} and {made}, which gives {100 * arm.synthetic_share:g} % of the patches"
    else:
        text = f"{real} and {made}, each case alike"
    if arm.found:
        text += f"; of the set only cases that the benchmark finds with a Dice of {arm.found.least_dice:g} or more"
        if arm.found.hard_times > 1:
            text += f", the harder half {arm.found.hard_times} times as often"
    if arm.mixing:
        whose = "their synthetic twins" if arm.mixing.of_twins else "another patient's"
        text += f"; {100 * arm.mixing.share:g} % of the real patches mixed with {whose} ({arm.mixing.way})"
    if arm.match_noise:
        text += "; synthetic patches with the noise of real ones"
    return text + "; other random seeds" * arm.reseeded
