"""``evaluation`` and ``figures``: what is computed and drawn of the arms."""

from pydantic import Field

from lungsyn.settings.section import Count, Name, Section, Window


class Evaluation(Section):
    bootstrap: int = Field(ge=100, le=1_000_000, description="Bootstrap samples over patients, for the FROC")
    confidence: float = Field(gt=0.5, lt=1.0, description="Level of the intervals")


class Shown(Section):
    window_hu: Window = Field(description="Grey scale of CT pictures: black, white")
    case_arms: tuple[Name, Name] = Field(description="The two arms whose contours are drawn on one case")


class Drawing(Shown):
    """What the pictures of the report depend on."""

    dpi: int = Field(ge=50, le=600, description="Resolution of the pictures")
    contact_cases: Count = Field(description="Synthetic and real cases on the contact sheet")


class Viewing(Shown):
    """What the viewer depends on."""

    viewer_cases: int = Field(
        default=3, ge=0, le=1000,
        description="Cases of each synthetic set, and test cases of each segmenter, in the viewer; 0: no viewer",
    )  # fmt: skip


class Figures(Drawing, Viewing):
    pass
