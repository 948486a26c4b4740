"""Membership inference: can one tell from the generator's loss who was in its training set?

Attack by loss (Yeom et al. 2018, arXiv 1709.01604; for diffusion models Carlini et al. 2023, arXiv 2301.13188): a
model denoises what it has learned by heart better than what it never saw. Each case gets the same number of patches
around its nodules, the same noise levels and the same noise. Of a GAN it is the error of one guess from pure noise, as
in GAN-Leaks (Chen et al. 2020, arXiv 1909.03935) with a single guess. An attacker who trains shadow models can do
better (LiRA): this attack can show that there is a leak, not that there is none.
"""

from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.hosts import is_host
from lungsyn.seams import Attackable
from lungsyn.volume.files import read_json

COLUMNS = ["case", "patient", "group", "log_loss"]


def case_groups(generator: Attackable, facts: dict, train: list[Path], unseen: list[Path]) -> dict[str, list[Path]]:
    """Who was learned from, and who was never seen. The train cases that only watched the training are neither: they
    gave no gradient, but the best weights were chosen by them. Nor are hosts: they have no nodule around which the loss
    could be asked for as of the others. ``facts``: of the model file.

    Raises InputError if the model learned from a case that is not in ``train``, or saw one of ``unseen``.
    """
    known = {folder.name: folder for folder in train}
    if missing := sorted(set(facts["cases"]) - set(known)):
        raise InputError(
            f"the generator was trained on {missing[0]}, which is not among the given train cases: give all"
        )
    if seen := sorted(set(facts["cases"]) & {folder.name for folder in unseen}):
        raise InputError(f"{seen[0]} is said to be unseen, but the generator was trained with it: give test cases")
    learned = generator.learned_from([known[name] for name in facts["cases"]], facts["seed"])
    return {"learned": [f for f in learned if not is_host(read_json(f / "case.json"))], "unseen": unseen}


def attack(generator: Attackable, groups: dict[str, list[Path]], seed: int) -> list[dict]:
    """One row (``COLUMNS``) per case. A loss that is no number, or a case of which nothing counts, is ``nan``."""
    return [
        {
            "case": folder.name,
            "patient": read_json(folder / "case.json")["patient"],
            "group": group,
            "log_loss": generator.log_loss(folder, seed),
        }
        for group, folders in groups.items()
        for folder in folders
    ]
