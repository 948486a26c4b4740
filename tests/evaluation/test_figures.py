"""A figure is tested for what a machine can see: written, of the stated size, not blank, the same twice."""

import struct

import numpy as np
import pytest
from matplotlib.image import imread

from lungsyn.config import Figures
from lungsyn.evaluation import figures, pictures
from lungsyn.evaluation.comparison import compare

SETTINGS = Figures(dpi=60, window_hu=(-1200, 400), contact_cases=3, case_arms=("real", "real+synthetic"))


def check(path, width_in: float):
    assert struct.unpack(">I", path.read_bytes()[16:20])[0] == width_in * 60  # the width in a PNG's header
    assert imread(path)[..., :3].std() > 0.05


def test_dice_difference(scores, comparison, worst, tmp_path):
    args = (scores, comparison, worst, "real", ["real-reseeded"], "a $tudy with 2 $", 60)
    figures.plot_dice_difference(*args, tmp_path / "a.png")
    figures.plot_dice_difference(*args, tmp_path / "b.png")
    check(tmp_path / "a.png", 11)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_dice_difference_of_a_tiny_study(scores, evaluation, tmp_path):
    """One case per group and no null arm: nothing to bootstrap, still a figure."""
    tiny = {arm: [row for row in scores[arm] if row["case"] in ("case00", "case20")] for arm in ("real", "synthetic")}
    rows = compare(tiny, "real", ["case00"], evaluation, seed=1)
    figures.plot_dice_difference(tiny, rows, ["case00"], "real", [], "tiny", 60, tmp_path / "a.png")
    check(tmp_path / "a.png", 11)


def test_jitter_keeps_neighbours_apart():
    offsets = figures.jitter(50, 0.4)
    assert np.abs(offsets).max() <= 0.2 and np.abs(np.diff(offsets)).min() > 0.1


def test_training(tmp_path):
    generator = [
        {"images_seen": 64 * k, "loss": 1 / (1 + k), "validation": 1.1 / (1 + k), "seconds": k} for k in range(9)
    ]
    segmenter = [{"step": k, "loss": 1 / (1 + k), "seconds": k} for k in range(9)]
    panels = {"generator": {"ddpm": generator}, "segmenter": {"real/0": segmenter, "real/1": segmenter[:1]}}
    figures.plot_training(panels, "phantom", 60, tmp_path / "a.png")
    check(tmp_path / "a.png", 11)


@pytest.mark.parametrize("nodule", [True, False])
def test_case(drawable, tmp_path, nodule):
    case = drawable(1, nodule)
    moved = np.roll(case.nodules, 1, axis=0)
    predictions = {"real": [moved, case.nodules], "real+synthetic": [np.zeros_like(moved)]}
    pictures.plot_case(
        case, predictions, dict.fromkeys(predictions, 0.5), "phantom", "a case", SETTINGS, tmp_path / "a.png"
    )
    check(tmp_path / "a.png", 10)


def test_contact_sheet(drawable, tmp_path):
    real = {f"real{k}": drawable(k, nodule=k > 0) for k in range(2)}
    synthetic = {f"made{k}": drawable(9 + k) for k in range(5)}
    pictures.plot_contact_sheet(real, synthetic, 4, "phantom", SETTINGS, tmp_path / "a.png")
    check(tmp_path / "a.png", 11)


def test_the_choice_follows_the_seed_not_the_order():
    names = [f"case{k}" for k in range(20)]
    assert pictures.choose(names, 5, seed=1) == pictures.choose(names[::-1], 5, seed=1)
    assert pictures.choose(names, 5, seed=1) != pictures.choose(names, 5, seed=2)
    assert sorted(pictures.choose(names, 50, seed=1)) == sorted(names)


def test_the_patients_right_is_on_the_left_and_the_head_is_up():
    """A voxel at the right, the front and the top (the high end of every RAS+ axis) is drawn upper left in
    all planes.
    """
    from matplotlib.figure import Figure

    volume = np.zeros((4, 5, 6), dtype=np.int16)
    volume[3, 4, 5] = 100
    for across in (0, 1, 2):
        figure = Figure((2, 2), dpi=40)
        axis = figure.add_axes((0, 0, 1, 1))
        pictures.draw_slice(axis, volume, across, volume.shape[across] - 1, (1, 1, 1), (0, 100))
        figure.canvas.draw() if hasattr(figure.canvas, "renderer") else figure.savefig("/dev/null", format="png")
        first, second = (n for k, n in enumerate(volume.shape) if k != across)
        left, top = axis.transData.transform((first - 1, second - 1)) / figure.bbox.size
        assert left < 0.5 < top


def test_planes_and_crops():
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[4:8, 5:7, 18:20] = True
    assert pictures.crop_around(mask, (1, 1, 2), 3.0, 8.0) == (slice(1, 11), slice(1, 11), slice(16, 20))
    index = np.zeros((6, 6, 6), dtype=np.uint8)
    index[0, 0, 0], index[2, 2:4, 2] = 1, 2
    assert pictures.widest_slices(pictures.largest_nodule(index)) == [2, 2, 2]
    assert pictures.largest_nodule(index * 0) is None
