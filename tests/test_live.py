"""The live picture shows what is learned and never touches it."""

import itertools

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lungsyn import live
from lungsyn.evaluation.figures import STYLE
from lungsyn.generators.core import training
from lungsyn.generators.core.bands import inner
from lungsyn.generators.core.patches import masks_window
from lungsyn.generators.core.schedule import sampling_timesteps
from lungsyn.seams import Run
from lungsyn.settings.compute import Compute
from lungsyn.volume.files import open_case
from lungsyn.volume.intensity import to_hu, to_model_range
from lungsyn.volume.patches import window

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)


@pytest.fixture
def settings(generator_settings):
    return generator_settings.model_copy(update={"images": 12, "validation_every_images": 6})


def trained(case_folders, settings, folder, out=None):
    watch = {"watch": live.watcher(case_folders, settings, CPU, 7, out, "ours")} if out else {}
    return training.train(case_folders, settings, Run(7, CPU, folder), **watch)


def test_the_same_is_learned_with_and_without_it(case_folders, settings, tmp_path):
    out = tmp_path / "live/generator.png"
    alone, facts, _ = trained(case_folders, settings, tmp_path / "alone")
    global_state = torch.get_rng_state()
    watched, facts_watched, _ = trained(case_folders, settings, tmp_path / "watched", out)
    assert all(torch.equal(alone[name], watched[name]) for name in alone)
    assert facts["best_loss"] == facts_watched["best_loss"]
    assert torch.equal(global_state, torch.get_rng_state())
    assert np.asarray(Image.open(out).convert("L")).std() > 20
    assert [path.name for path in out.parent.iterdir()] == ["generator.png"]


def test_a_picture_that_fails_is_one_line_and_the_training_goes_on(case_folders, settings, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    _, _, records = trained(case_folders, settings, tmp_path / "checkpoints", tmp_path / "file/generator.png")
    assert [record["images_seen"] for record in records] == [6, 12]
    said = [line for line in capsys.readouterr().out.splitlines() if "picture" in line]
    assert said and all(line.startswith("no live picture this time: ") for line in said)


@pytest.mark.parametrize("number", [0, 2])  # the second is smaller than a patch along z
def test_what_the_network_says_stands_in_the_real_surroundings(case_folders, settings, number):
    settings = settings.model_copy(update={"prediction": "sample"})
    case, size = open_case(case_folders[number]), settings.patch_voxels
    start = live.patch_start(case, live.largest_nodule(case.nodules), settings)
    says = np.random.default_rng(0).uniform(-1, 1, (size, size, size)).astype(np.float32)
    asked = []

    def network(x_t, masks, coarse, t, spacing_mm):
        asked.append((int(t), inner(masks)[0, 0].numpy().copy()))
        return torch.from_numpy(says)[None, None]

    real, made, nodule = live.real_and_made(network, case, settings, torch.device("cpu"), torch.float32, 0)
    inside = tuple(slice(n) for n in real.shape)
    assert real.shape == tuple(min(size, n) for n in case.ct.shape)
    hu = window(case.ct, start, size, -1000)[inside]
    masks = masks_window(case, start, size)
    assert np.array_equal(real, to_hu(to_model_range(hu, settings.window_hu), settings.window_hu))
    assert np.array_equal(made, np.where(masks.any(axis=0)[inside], to_hu(says, settings.window_hu)[inside], real))
    assert nodule.any() and np.array_equal(nodule, masks[0][inside])
    assert [t for t, _ in asked] == sampling_timesteps(settings.timesteps, live.SAMPLING.steps)[:-1]
    assert all(np.array_equal(mask, masks[0]) for _, mask in asked)


@pytest.mark.parametrize("images", [4000, 8000, 60_000, 4_000_000])
def test_numbers_of_patches_do_not_lie_on_each_other(settings, monkeypatch, images, tmp_path):
    drawn = []

    def keep(width, height, dpi, out, layout):
        drawn.append(Figure((width, height), dpi, layout="constrained"))
        with matplotlib.rc_context(STYLE):
            layout(drawn[0])
            FigureCanvasAgg(drawn[0]).draw()

    monkeypatch.setattr(live, "save", keep)
    patch = np.zeros((16, 16, 16))
    nodule = np.zeros(patch.shape, bool)
    nodule[6:9, 6:9, 6:9] = True
    records = [{"images_seen": images // 4 * i, "loss": 0.7 / i, "validation": 0.6 / i} for i in (1, 2, 3)]
    chosen = settings.model_copy(update={"images": images})
    live.draw({"a": (patch, patch, nodule)}, records, chosen, "held-out", "ours, $n$", tmp_path / "x.png")
    assert "study: ours, $n$" in drawn[0].get_suptitle()
    axis = drawn[0].subfigs[0].axes[0]
    places = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
    inside = [place for place in places if place.x0 >= 0]
    assert len(inside) >= 2
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(sorted(inside, key=lambda place: place.x0)))


def test_pictures_take_little_of_the_time_and_the_last_is_drawn(case_folders, settings, tmp_path, monkeypatch):
    """A clock in place of the time: each picture takes a second, each check comes ten seconds after the other."""
    clock, drawn = [0.0], []

    def draw(pairs, records, *_):
        clock[0] += 1
        drawn.append(records[-1]["images_seen"])

    monkeypatch.setattr(live.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(live, "real_and_made", lambda *_: None)
    monkeypatch.setattr(live, "draw", draw)
    settings = settings.model_copy(update={"images": 100})
    watch = live.watcher(case_folders, settings, CPU, 7, tmp_path / "live.png", "ours")
    for images_seen in range(1, 101):
        clock[0] += 10
        watch(None, torch.float32, [{"images_seen": images_seen}])
    assert drawn[0] == 1 and drawn[-1] == 100
    assert 20 < len(drawn) <= 2 + 1000 * live.LARGEST_SHARE


def test_no_two_losses_on_the_axis_have_the_same_name(settings, tmp_path, monkeypatch):
    """A loss that has nearly settled: 0.115, 0.12 and 0.125 were all "0.12"."""
    figure = Figure()
    monkeypatch.setattr(live, "save", lambda width, height, dpi, out, layout: layout(figure))
    records = [{"images_seen": 6 * i, "loss": 0.125 - 0.01 * i, "validation": 0.105} for i in range(1, 4)]
    live.draw({}, records, settings, "held-out", "ours", tmp_path / "generator.png")
    FigureCanvasAgg(figure).draw()
    axis = figure.subfigs[0].axes[0]
    low, high = axis.get_ylim()
    ticks = [tick for minor in (False, True) for tick in axis.yaxis.get_ticklabels(minor=minor)]
    names = [tick.get_text() for tick in ticks if low <= tick.get_position()[1] <= high and tick.get_text()]
    assert len(names) == len(set(names)) > 1
