"""Who is attacked, with what, and that a model that knows its cases gives itself away."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lungsyn.audit import membership
from lungsyn.audit.verdict import membership_check
from lungsyn.errors import InputError
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.generator import PATCHES_PER_CASE, PatchGenerator
from lungsyn.generators.core.patches import TrainingPatches, collate
from lungsyn.generators.core.training import hold_out
from lungsyn.settings.audit import Thresholds
from lungsyn.settings.synthesis import Synthesis

CPU = torch.device("cpu")


class Knowing(torch.nn.Module):
    """Denoises exactly what it knows; for the rest it says zero. It recognises a patch by what is to be predicted."""

    def __init__(self, known=()):
        super().__init__()
        self.known = list(known)

    def forward(self, x_t, masks, coarse, t, spacing_mm):
        made = torch.zeros_like(inner(x_t))
        for i, noisy in enumerate(x_t):
            for x, target in self.known:
                if torch.equal(noisy, x):
                    made[i] = target
        return made + 1e-3


def loaded(network, settings) -> PatchGenerator:
    return PatchGenerator(network, settings, CPU, torch.float32, 5, Synthesis())


def patches_of(folder, settings, seed):
    plain = settings.model_copy(update={"nodule_patches": 1.0})
    patches = TrainingPatches([folder], plain, seed, stratified=PATCHES_PER_CASE)
    return [patches[i] for i in range(PATCHES_PER_CASE)], plain


def test_a_case_s_loss_is_the_training_s_own(case_folders, generator_settings):
    """Patch by patch with the training's function; batches of five leave a rest."""
    examples, plain = patches_of(case_folders[0], generator_settings, seed=3)
    network = Knowing()
    expected = [float(plain.learning().loss(network, collate([e]), CPU, torch.float32)) for e in examples]
    found = loaded(network, generator_settings).log_loss(case_folders[0], seed=3)
    assert found == pytest.approx(np.mean(np.log(expected)), abs=1e-5)


def test_every_case_gets_the_same_noise_levels_whatever_the_training_did(case_folders, generator_settings):
    wild = generator_settings.model_copy(update={"flips": True, "nodule_dropout": 1.0, "nodule_patches": 0.0})
    seen = []
    network = Knowing()
    network.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[1], inputs[3])))
    for folder in case_folders[:2]:
        loaded(network, wild).log_loss(folder, seed=0)
    half = len(seen) // 2
    levels = [torch.cat([t for _, t in part]).tolist() for part in (seen[:half], seen[half:])]
    assert levels[0] == levels[1] and len(levels[0]) == PATCHES_PER_CASE
    assert all((masks[:, 0].flatten(1).sum(dim=1) > 0).all() for masks, _ in seen)  # each patch has its nodule


def test_a_model_that_knows_its_cases_is_caught(case_folders, generator_settings):
    known = [(e.x_t, e.target) for folder in case_folders[:2] for e in patches_of(folder, generator_settings, 0)[0]]
    groups = {"learned": case_folders[:2], "unseen": case_folders[2:]}
    rows = membership.attack(loaded(Knowing(known), generator_settings), groups, seed=0)
    assert [row["group"] for row in rows] == ["learned"] * 2 + ["unseen"] * 3
    assert membership_check(rows, Thresholds(alpha=0.1)).value == 1.0
    assert all(row["patient"] for row in rows)


def test_cases_that_only_watched_are_left_out(case_folders, generator_settings):
    facts = {"cases": [folder.name for folder in case_folders[:4]], "seed": 5}
    groups = membership.case_groups(loaded(Knowing(), generator_settings), facts, case_folders[:4], case_folders[4:])
    learned, watched = hold_out(case_folders[:4], generator_settings, 5)
    assert groups == {"learned": learned, "unseen": case_folders[4:]}
    assert len(watched) == 2 and not set(watched) & set(groups["learned"])


def test_wrong_cases_are_refused(case_folders, generator_settings):
    facts = {"cases": ["case-0", "case-1"], "seed": 5}
    settings = SimpleNamespace(held_out=0.0)
    with pytest.raises(InputError, match="trained on case-1, which is not among"):
        membership.case_groups(loaded(Knowing(), settings), facts, case_folders[:1], case_folders[2:])
    with pytest.raises(InputError, match="case-1 is said to be unseen"):
        membership.case_groups(loaded(Knowing(), settings), facts, case_folders[:2], case_folders[1:])


def test_a_loss_that_is_no_number_is_written_as_such(case_folders, generator_settings):
    """The verdict is blind then: `membership_check`."""
    broken = Knowing()
    broken.forward = lambda x_t, *_: torch.full_like(inner(x_t), float("nan"))
    rows = membership.attack(loaded(broken, generator_settings), {"learned": case_folders[:1]}, seed=0)
    assert np.isnan(rows[0]["log_loss"])
