"""Membership inference: can one tell from the generator's loss who was in its training set?

Attack by loss (Yeom et al. 2018, arXiv 1709.01604; for diffusion models Carlini et al. 2023, arXiv 2301.13188): a
model denoises what it has learned by heart better than what it never saw. Each case gets the same number of patches
around its nodules, the same noise levels and the same noise. Of a GAN it is the error of one guess from pure noise, as
in GAN-Leaks (Chen et al. 2020, arXiv 1909.03935) with a single guess. An attacker who trains shadow models can do
better (LiRA): this attack can show that there is a leak, not that there is none.
"""

from pathlib import Path

import numpy as np
import torch

from lungsyn.errors import InputError
from lungsyn.generators.core.cases import LoadedGenerator
from lungsyn.generators.core.patches import TrainingPatches, collate
from lungsyn.generators.core.training import hold_out, loss_map, loss_weight
from lungsyn.volume.files import read_json
from lungsyn.volume.patches import batches

PATCHES_PER_CASE = 32  # each at a noise level of its own, evenly spaced
COLUMNS = ["case", "patient", "group", "log_loss"]


def case_groups(facts: dict, settings, train: list[Path], unseen: list[Path]) -> dict[str, list[Path]]:
    """Who was learned from, and who was never seen. The train cases that only watched the training are neither: they
    gave no gradient, but the best weights were chosen by them. ``facts``: of the model file.

    Raises InputError if the model learned from a case that is not in ``train``, or saw one of ``unseen``.
    """
    known = {folder.name: folder for folder in train}
    if missing := sorted(set(facts["cases"]) - set(known)):
        raise InputError(
            f"the generator was trained on {missing[0]}, which is not among the given train cases: give all"
        )
    if seen := sorted(set(facts["cases"]) & {folder.name for folder in unseen}):
        raise InputError(f"{seen[0]} is said to be unseen, but the generator was trained with it: give test cases")
    learned, _ = hold_out([known[name] for name in facts["cases"]], settings, facts["seed"])
    return {"learned": learned, "unseen": unseen}


@torch.no_grad()
def log_loss(generator: LoadedGenerator, folder: Path, seed: int) -> float:
    """Mean over a case's patches of the logarithm of their training loss, so that every noise level counts alike."""
    plain = generator.settings.model_copy(update={"flips": False, "nodule_dropout": 0.0, "nodule_patches": 1.0})
    patches = TrainingPatches([folder], plain, seed, stratified=PATCHES_PER_CASE)
    losses = []
    for numbers in batches(list(range(PATCHES_PER_CASE)), generator.patches_per_batch):
        batch = collate([patches[i] for i in numbers])
        error = loss_map(generator.network, batch, generator.device, generator.precision).cpu()
        weight = loss_weight(batch["masks"], plain)
        total = weight.sum(dim=(1, 2, 3, 4))
        some = total > 0  # a patch of nothing but air has no loss
        losses += ((weight * error).sum(dim=(1, 2, 3, 4))[some] / total[some]).double().log().tolist()
    return float(np.mean(losses)) if losses else float("nan")


def attack(generator: LoadedGenerator, groups: dict[str, list[Path]], seed: int) -> list[dict]:
    """One row (``COLUMNS``) per case. A loss that is no number, or a case of which nothing counts, is ``nan``."""
    return [
        {
            "case": folder.name,
            "patient": read_json(folder / "case.json")["patient"],
            "group": group,
            "log_loss": log_loss(generator, folder, seed),
        }
        for group, folders in groups.items()
        for folder in folders
    ]
