"""Real nodules, varied, pasted into real CT, the kind ``copy_paste``: the baseline that a generator has to beat."""

from typing import Literal

import numpy as np
from pydantic import Field

from lungsyn.seams import Generator, GeneratorFamily, Sampled, Scene
from lungsyn.settings.section import Section
from lungsyn.volume.pasting import paste


class Settings(Section):
    """Nothing to choose."""

    kind: Literal["copy_paste"] = Field(default="copy_paste", description="Family of the generator")


class Pasting(Generator):
    """Pastes the nodules of a scene into its known CT, with a soft edge."""

    def sample(self, scene: Scene, seed: int, on_step=lambda step: None) -> Sampled:
        """The known CT with the scene's new nodules. Where its own are not all kept, since none fitted beside them, the
        case stays as it is: its nodules cannot be taken out."""
        known = scene.known
        if known is None:
            raise ValueError("copy_paste changes a CT that is known, and this scene has none: give it Scene(known=...)")
        if not (scene.labels["nodules"] > 0)[np.asarray(known.nodules) > 0].all():
            return Sampled(np.asarray(known.ct), known.labels)
        hu = np.array(known.ct, dtype=np.float32)
        for nodule in scene.placed:
            paste(hu, nodule)
        return Sampled(np.rint(hu).astype(np.int16))


class Family(GeneratorFamily):
    """Copy and paste."""

    Settings = Settings
    recipe = 1
    trains = False
    checked = False  # what is pasted is real, and no other noise could make it another
    needs_known = True

    def load(self, model, settings, compute, synthesis):
        return Pasting()
