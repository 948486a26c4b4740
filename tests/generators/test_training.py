import json
import signal

import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lungsyn import checkpoint, compute
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import HALO
from lungsyn.generators.core.patches import TrainingPatches
from lungsyn.seams import Run
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import write_case
from tests.conftest import killed_at, make_case

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)


@pytest.fixture(params=["diffusion", "adversarial"])
def any_settings(request, generator_settings, gan_settings):
    return {"diffusion": generator_settings, "adversarial": gan_settings}[request.param]


def test_a_killed_training_ends_bit_equal(case_folders, any_settings, tmp_path, monkeypatch):
    end_bit_equal(case_folders, any_settings, tmp_path, monkeypatch)


@pytest.mark.parametrize("images", [24, 8])  # of the autoencoder, before or in whose training it is killed
def test_a_killed_training_of_latents_ends_bit_equal(case_folders, latent_settings, tmp_path, monkeypatch, images):
    autoencoder = latent_settings.autoencoder.model_copy(update={"images": images})
    settings = latent_settings.model_copy(update={"autoencoder": autoencoder, "images": 24})
    end_bit_equal(case_folders, settings, tmp_path, monkeypatch)


def end_bit_equal(case_folders, any_settings, tmp_path, monkeypatch):
    """A training that is killed at the making of its 20th patch, and one that is not."""
    whole, facts, records = training.train(case_folders, any_settings, Run(7, CPU, tmp_path / "whole"))

    with monkeypatch.context() as patched:
        patched.setattr(training, "TrainingPatches", killed_at(TrainingPatches, 20, signal.SIGTERM))
        with pytest.raises(SystemExit) as stopped:
            training.train(case_folders, any_settings, Run(7, CPU, tmp_path / "killed"))
    assert stopped.value.code == 128 + signal.SIGTERM
    saved = [checkpoint.load(path)[1] for path in (tmp_path / "killed").glob("*/checkpoint.safetensors")]
    assert 0 < min(about["images_seen"] for about in saved) <= 22
    resumed, facts_again, records_again = training.train(case_folders, any_settings, Run(7, CPU, tmp_path / "killed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert facts["best_loss"] == facts_again["best_loss"]
    for key in ("validation", "loss"):
        assert [r[key] for r in records] == [r[key] for r in records_again]


def test_a_training_that_stopped_early_learns_no_more_when_it_is_started_again(
    case_folders, generator_settings, tmp_path, monkeypatch
):
    """As when it is killed between its end and the writing of its model."""
    monkeypatch.setattr(training, "held_out_losses", lambda *_: [1.0])  # never better than the first
    settings = generator_settings.model_copy(update={"early_stop_checks": 1})
    weights, facts, records = training.train(case_folders, settings, Run(7, CPU, tmp_path))
    again, facts_again, records_again = training.train(case_folders, settings, Run(7, CPU, tmp_path))
    assert facts["images_seen"] == facts_again["images_seen"] < settings.images
    assert records == records_again
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_training_made_longer_goes_on_and_ends_as_if_it_had_been_so_long_at_once(
    case_folders, any_settings, tmp_path, capsys
):
    def made(images, folder):
        settings = any_settings.model_copy(update={"images": images})
        weights, facts, records = training.train(case_folders, settings, Run(7, CPU, tmp_path / folder))
        begun = capsys.readouterr().out.split(", from ")[-1].split(" of ")[0]
        return weights, facts["best_loss"], [r["validation"] for r in records], int(begun)

    *at_once, _ = made(80, "at once")
    begun_at = [made(images, "in turns")[-1] for images in (20, 40, 20)]
    *in_turns, begun = made(80, "in turns")
    assert [*begun_at, begun] == [0, 16, 20, 32]  # four fifths of the one before; a finished one is only read
    assert all(torch.equal(at_once[0][name], in_turns[0][name]) for name in at_once[0])
    assert at_once[1:] == in_turns[1:]
    assert made(24, "in turns")[-1] == 0  # the state that is kept is of a longer training: none of its own


def test_a_training_goes_on_in_its_precision_on_another_processor(
    case_folders, generator_settings, tmp_path, monkeypatch
):
    """It begins on one without bfloat16."""
    auto, settings = CPU.model_copy(update={"precision": "auto"}), generator_settings.model_copy(update={"images": 8})
    monkeypatch.setattr(compute, "has_bfloat16", lambda device: False)
    _, facts, _ = training.train(case_folders, settings, Run(7, auto, tmp_path))
    monkeypatch.setattr(compute, "has_bfloat16", lambda device: True)
    _, again, _ = training.train(case_folders, settings, Run(7, auto, tmp_path))
    _, fresh, _ = training.train(case_folders, settings, Run(8, auto, tmp_path))
    assert [f["precision"] for f in (facts, again, fresh)] == ["float32", "float32", "bfloat16"]
    assert "float32" in again["ran_on"]


def test_the_loss_falls_and_the_best_is_kept(case_folders, generator_settings, tmp_path):
    settings = generator_settings.model_copy(update={"images": 400, "learning_rate": 3e-3, "ema_images": 20})
    weights, facts, records = training.train(case_folders, settings, Run(0, CPU, tmp_path))
    assert records[-1]["validation"] < 0.7 * records[0]["validation"]  # always of the same patches
    assert facts["best_loss"] == min(r["validation"] for r in records)
    assert len(records[-1]["validation_per_noise"]) == training.NOISE_BINS
    curve = next(tmp_path.glob("*/training.jsonl")).read_text().splitlines()
    assert json.loads(curve[-1])["images_seen"] == 400
    assert {t.dtype for t in weights.values()} == {torch.float32}


def test_only_the_given_cases_are_opened(case_folders, generator_settings, tmp_path, monkeypatch):
    opened = []
    original = nib.load
    monkeypatch.setattr(nib, "load", lambda path, **k: opened.append(str(path)) or original(path, **k))
    training.train(case_folders[:3], generator_settings, Run(0, CPU, tmp_path))
    allowed = tuple(str(folder) for folder in case_folders[:3])
    assert opened
    assert all(path.startswith(allowed) for path in opened)


def test_held_out_cases_are_not_learned_from(case_folders, generator_settings):
    learned, held_out = training.hold_out(case_folders, generator_settings, seed=0)
    assert len(held_out) == 2
    assert sorted(learned + held_out) == sorted(case_folders)
    assert training.hold_out(case_folders[:1], generator_settings, 0) == (case_folders[:1], [])


def test_a_patient_s_cases_are_learned_from_or_held_out_together(generator_settings, tmp_path):
    patient_of = {}
    for i in range(12):
        case = make_case(name=f"case-{i}")
        case.about["patient"] = f"patient-{i % 4}"
        write_case(tmp_path / f"case-{i}", case)
        patient_of[tmp_path / f"case-{i}"] = f"patient-{i % 4}"
    learned, held_out = training.hold_out(list(patient_of), generator_settings, seed=0)
    assert len(held_out) == 6
    assert not {patient_of[f] for f in learned} & {patient_of[f] for f in held_out}


def test_another_setting_starts_afresh(case_folders, generator_settings, tmp_path):
    training.train(case_folders[:2], generator_settings, Run(0, CPU, tmp_path))
    other = generator_settings.model_copy(update={"nodule_weight": 9.0})
    training.train(case_folders[:2], other, Run(0, CPU, tmp_path))
    assert len(list(tmp_path.glob("*/training.jsonl"))) == 2


def test_not_a_number_stops_with_step_and_cases(case_folders, generator_settings, tmp_path):
    wild = generator_settings.model_copy(update={"learning_rate": 1.0, "warmup_images": 0, "gradient_norm": 1e30})
    broken = [case_folders[0]]

    class Poisoned(TrainingPatches):
        def __getitem__(self, i):
            example = super().__getitem__(i)
            example.target.fill_(float("nan"))
            return example

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(training, "TrainingPatches", Poisoned)
        with pytest.raises(FloatingPointError, match=r"after 0 patches; the batch's cases: case-0"):
            training.train(broken, wild.model_copy(update={"held_out": 0.0}), Run(0, CPU, tmp_path))


def test_learning_rate_rises_stays_and_falls(generator_settings):
    s = generator_settings.model_copy(update={"images": 1000, "warmup_images": 100, "batch_patches": 10})
    rates = [training.learning_rate(s, i) / s.learning_rate for i in range(0, 1000, 10)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == 1.0
    assert rates[50] == 1.0
    assert 0 < rates[-1] < 0.06
    assert np.diff(rates[80:]).max() < 0


def test_loss_counts_the_body_and_weighs_nodules(generator_settings):
    masks = torch.zeros(1, 3, 2, 1, 1, dtype=torch.uint8)
    masks[0, 2, 0] = masks[0, 0, 0] = 1
    masks = F.pad(masks, [HALO] * 6, value=1)  # where nothing counts
    assert generator_settings.learning().weight(masks).flatten().tolist() == [generator_settings.nodule_weight, 0]
