"""Two command lines as a segmenter: what they get, what they give back, and how their failures are told."""

import signal
import sys
import threading
import time

import numpy as np
import pytest

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.segmenters.command import pack, unpack
from lungsyn.settings.arms import Use
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import open_case

CPU = Compute(device="cpu", segmenter_threads=1)
COMMAND = family("segmenters", "command")
TRAIN = """ls "$DATA/imagesTr" > "$MODEL/names.txt"
mkdir -p "$MODEL/deep"
echo "$SEED $SHARE $DEVICE $THREADS" > "$MODEL/deep/told.txt"
"""
# Every case's mask is where its CT is above a threshold, which is what a user's own programme would be told.
PREDICT = (
    sys.executable
    + r""" - "$IMAGES" "$OUT" <<'end'
import sys
from pathlib import Path
import nibabel as nib
import numpy as np
for path in Path(sys.argv[1]).glob("*_0000.nii"):
    image = nib.load(path)
    mask = (np.asarray(image.dataobj) > 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(mask, image.affine), Path(sys.argv[2], path.name.replace("_0000.nii", ".nii.gz")))
end"""
)


def trained(case_folders, tmp_path, train=TRAIN):
    settings = COMMAND.Settings(train=train)
    return COMMAND.fit(
        case_folders[:2], case_folders[2:3], Use(synthetic_share=0.5), settings, Run(7, CPU, tmp_path / "checkpoints")
    )


def loaded(case_folders, tmp_path, predict=PREDICT):
    model = tmp_path / "model.safetensors"
    about = {"segmenter": {"train": TRAIN}}
    checkpoint.save(model, trained(case_folders, tmp_path).tensors, about)
    return COMMAND.load(model, CPU, COMMAND.Inference(predict=predict))


def test_what_a_command_learns_travels_in_the_model(case_folders, tmp_path):
    found = trained(case_folders, tmp_path)
    unpack(found.tensors["files"], tmp_path / "again")
    names = (tmp_path / "again/names.txt").read_text().split()
    assert names == ["real_0001_0000.nii", "real_0002_0000.nii", "synthetic_0001_0000.nii"]
    assert (tmp_path / "again/deep/told.txt").read_text() == "7 0.5 cpu 1\n"
    assert pack(tmp_path / "again").equal(found.tensors["files"])
    assert not list((tmp_path / "checkpoints").rglob("imagesTr"))  # the data are not kept twice


def test_what_it_predicts_is_read_case_by_case(case_folders, tmp_path):
    segmenter = loaded(case_folders, tmp_path)
    cases = [open_case(folder) for folder in case_folders]
    for case, percent in zip(cases, segmenter.predict_each(case_folders), strict=True):
        assert percent.dtype == np.uint8
        assert np.array_equal(percent, np.where(np.asarray(case.ct) > 0, 100, 0))
    assert np.array_equal(segmenter.predict(cases[0]) > 0, np.asarray(cases[0].ct) > 0)


def test_probabilities_are_whole_percent_rounded_down(case_folders, tmp_path):
    half = PREDICT.replace(".astype(np.uint8)", " * np.float32(0.129)")
    assert set(np.unique(loaded(case_folders, tmp_path, half).predict(open_case(case_folders[0])))) == {0, 12}


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("exit 3", r"segmenters\.\*\.train ended with status 3, 'exit 3'; what it printed is above"),
        ("false | true", r"train ended with status 1"),
        ('echo "$DATAA" > "$MODEL/x"', r"train ended with status 1"),  # a name that does not exist
        ("true", r"train wrote no file into \$MODEL"),
    ],
)
def test_a_training_that_fails_is_told(case_folders, tmp_path, train, words):
    with pytest.raises(InputError, match=words):
        trained(case_folders, tmp_path, train)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (".nii.gz", ".hdr", r"wrote neither case-0\.nii nor case-0\.nii\.gz into \$OUT"),
        (
            "mask, image",
            "mask[1:], image",
            r"case-0\.nii\.gz has shape .* or an affine .*: write it on the image's grid",
        ),
        ("image.affine)", "np.eye(4))", r"write it on the image's grid"),
        (".astype(np.uint8)", " * np.float32(100)", r"values that are not 0 to 1"),
        ("import sys", "import system", r"segmenters\.\*\.predict ended with status 1"),
    ],
)
def test_a_prediction_that_is_none_is_told(case_folders, tmp_path, old, new, words):
    assert old in PREDICT
    with pytest.raises(InputError, match=words):
        loaded(case_folders, tmp_path, PREDICT.replace(old, new)).predict(open_case(case_folders[0]))


def test_a_stopped_command_goes_on_in_its_own_folder(case_folders, tmp_path):
    """A signal reaches it; the same command finds what it left."""
    slow = 'if [ -f "$MODEL/begun" ]; then echo again > "$MODEL/done"; else touch "$MODEL/begun"; sleep 60; fi'
    begun = time.monotonic()
    threading.Timer(1.5, signal.raise_signal, [signal.SIGUSR1]).start()
    with pytest.raises(SystemExit):
        trained(case_folders, tmp_path, slow)
    assert time.monotonic() - begun < 30
    unpack(trained(case_folders, tmp_path, slow).tensors["files"], tmp_path / "again")
    assert (tmp_path / "again/done").read_text() == "again\n"
