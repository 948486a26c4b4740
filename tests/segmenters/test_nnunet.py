"""nnU-Net on an arm: it plans, trains, stops, goes on, and predicts on the case's own grid."""

import signal

import numpy as np
import pytest
import torch

pytest.importorskip("nnunetv2", reason="nnU-Net is not installed: pip install -e '.[nnunet]'")

from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from lungsyn import checkpoint
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.segmenters.networks import nnunet as networks
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import open_case, write_case
from tests.conftest import make_case

NNUNET = family("segmenters", "nnunet")
CPU = Compute(device="cpu", precision="float32", segmenter_threads=1, checkpoint_seconds=1)
SETTINGS = NNUNET.Settings(epochs=3, epoch_steps=1)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("cases")
    for i, shape in enumerate([(28, 30, 26), (26, 28, 24), (30, 26, 28)]):
        write_case(root / f"case-{i}", make_case(shape, seed=i, name=f"case-{i}"))
    return sorted(root.iterdir())


def fit(folders, checkpoints):
    return NNUNET.fit(folders[:1], folders[1:2], Use(synthetic_share=0.75), SETTINGS, Run(5, CPU, checkpoints))


@pytest.fixture(scope="module")
def whole(folders, tmp_path_factory):
    return fit(folders, tmp_path_factory.mktemp("whole"))


def test_its_length_is_what_the_settings_say(whole):
    batch = whole.facts["plans"]["configurations"]["3d_fullres"]["batch_size"]
    assert whole.facts["steps"] == 3 and whole.facts["nnunet"][0] == "2"
    assert [record["images_seen"] for record in whole.records] == [batch, 2 * batch, 3 * batch]
    assert all(np.isfinite(record["loss"]) for record in whole.records)


def test_a_killed_training_goes_on_and_ends_bit_equal(folders, whole, tmp_path, monkeypatch):
    step = networks.Trainer.train_step

    def killed(trainer, batch):
        if trainer.current_epoch == 2:
            signal.raise_signal(signal.SIGUSR1)
        return step(trainer, batch)

    monkeypatch.setattr(networks.Trainer, "train_step", killed)
    with pytest.raises(SystemExit):
        fit(folders, tmp_path)
    (saved,) = tmp_path.rglob("checkpoint_latest.pth")
    assert torch.load(saved, weights_only=False)["current_epoch"] == 2
    monkeypatch.undo()
    resumed = fit(folders, tmp_path)
    assert [record["loss"] for record in resumed.records] == [record["loss"] for record in whole.records]
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)
    assert not list(tmp_path.rglob("*_0000.nii"))  # what is trained needs its data no more


def test_a_model_predicts_a_case_that_it_has_not_seen(folders, whole, tmp_path):
    about = {"segmenter": SETTINGS.model_dump(mode="json")} | whole.facts
    checkpoint.save(tmp_path / "model.safetensors", whole.tensors, about)
    segmenter = NNUNET.load(tmp_path / "model.safetensors", CPU, NNUNET.Inference(mirrored=False))
    case = open_case(folders[2])
    percent = segmenter.predict(case)
    assert percent.dtype == np.uint8 and percent.shape == case.ct.shape and percent.max() <= 100


class Bright(torch.nn.Module):
    """Sure of a nodule where the image is above its mean."""

    def forward(self, x):
        return torch.cat([-50 * x, 50 * x], dim=1)


def test_predictions_lie_where_the_image_is(folders, whole):
    """No axis is turned or mirrored between the case, nnU-Net and back."""
    window = {"mean": -400.0, "std": 300.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0}
    planned = whole.facts["plans"] | {"foreground_intensity_properties_per_channel": {"0": window}}
    plans = networks.PlansManager(planned)  # the made-up nodules are of one HU: by their own all would be the same
    predictor = nnUNetPredictor(use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        Bright(), plans, plans.get_configuration("3d_fullres"), [{}], whole.facts["dataset"], "nnUNetTrainer", None
    )
    case = open_case(folders[2])
    assert np.array_equal(networks.NnUnet(predictor).predict(case) >= 50, np.asarray(case.ct) >= -400)
