"""A figure is tested for what a machine can see: written, of the stated size, not blank, the same twice."""

import itertools
import struct

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from lungsyn.evaluation import figures, pictures, summaries
from lungsyn.evaluation.comparison import compare
from lungsyn.evaluation.froc import froc_rows
from lungsyn.evaluation.groups import worst_cases
from lungsyn.settings.evaluation import Figures
from tests.evaluation.conftest import N_TRAIN

SETTINGS = Figures(dpi=60, window_hu=(-1200, 400), contact_cases=3, case_arms=("real", "real+synthetic"))


def frame(study_name: str, null_arms=()) -> figures.Frame:
    return figures.Frame("real", null_arms, study_name, dpi=60)


def check(path, width_in: float):
    assert struct.unpack(">I", path.read_bytes()[16:20])[0] == round(width_in * 60)  # the width in a PNG's header
    assert imread(path)[..., :3].std() > 0.05


def test_dice_difference(scores, comparison, worst, tmp_path):
    args = (scores, comparison, worst, frame("a $tudy with 2 $", ["real-reseeded"]))
    figures.plot_dice_difference(*args, tmp_path / "a.png")
    figures.plot_dice_difference(*args, tmp_path / "b.png")
    check(tmp_path / "a.png", 11)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("n_arms", [5, 8, 11])
def test_numbers_of_many_arms_do_not_lie_on_each_other(n_arms, scores, evaluation, worst, tmp_path, monkeypatch):
    many = {"real": scores["real"]} | {f"real+arm {i}": scores["synthetic"] for i in range(1, n_arms)}
    rows = compare(many, "real", worst, evaluation)
    drawn = []
    monkeypatch.setattr(figures, "save", lambda width, height, dpi, out, draw: drawn.append((width, height, draw)))
    figures.plot_dice_difference(many, rows, worst, frame("many"), tmp_path / "a.png")
    ((width, height, draw),) = drawn
    figure = Figure((width, height), dpi=60, layout="constrained")
    draw(figure)
    figure.savefig(tmp_path / "a.png")
    for panel in figure.axes:
        numbers = [text.get_bbox_patch().get_window_extent() for text in panel.texts if text.get_text()[0] in "+−"]
        assert len(numbers) == n_arms - 1
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(numbers))


def test_dice_difference_of_a_tiny_study(scores, evaluation, tmp_path):
    """One case per group and no null arm: nothing to bootstrap, still a figure."""
    tiny = {arm: [row for row in scores[arm] if row["case"] in ("case00", "case20")] for arm in ("real", "synthetic")}
    rows = compare(tiny, "real", ["case00"], evaluation)
    figures.plot_dice_difference(tiny, rows, ["case00"], frame("tiny"), tmp_path / "a.png")
    check(tmp_path / "a.png", 11)


def test_a_study_of_few_patients_is_drawn_without_intervals(scores, evaluation, tmp_path):
    """Ten test patients: thin lines over patients and trainings, no thick ones; learning curves without a band."""
    few = {arm: [row for row in rows if row["case"] < "case22"] for arm, rows in scores.items()}
    rows = compare(few, "real", [], evaluation)
    assert all(row["ci_low"] is None and row["dice_low"] is None for row in rows)
    of_few = frame("few", ["real-reseeded"])
    figures.plot_dice_difference(few, rows, [], of_few, tmp_path / "a.png")
    summaries.plot_ladder(rows, {100: 53}, 0.95, of_few, tmp_path / "b.png")
    both = [row | {"size": size} for size in (25, 100) for row in rows]
    summaries.plot_learning(both, {25: 13, 100: 53}, of_few, tmp_path / "c.png")
    for name in "abc":
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_a_segmenter_that_is_trained_in_the_benchmark_arm_only(scores, evaluation, tmp_path):
    alone, worst = {"real": scores["real"]}, worst_cases(scores["real"], 4)
    rows = compare(alone, "real", worst, evaluation)
    figures.plot_dice_difference(alone, rows, worst, frame("alone"), tmp_path / "a.png")
    check(tmp_path / "a.png", 11)


def test_jitter_keeps_neighbours_apart():
    offsets = figures.jitter(50, 0.4)
    assert np.abs(offsets).max() <= 0.2 and np.abs(np.diff(offsets)).min() > 0.1


def curve(n: int = 9, **of) -> list[dict]:
    """The lines of a ``training.jsonl``; a generator's have a check of held-out cases."""
    records = [{"images_seen": 64 * k, "loss": 1 / (1 + k), "seconds": k} for k in range(n)]
    return [{"size": 100} | of | r | ({"validation": 1.1 * r["loss"]} if "generator" in of else {}) for r in records]


def of_arm(arm: str, size: int = 100, replicate: int = 0, segmenter: str = "unet") -> list[dict]:
    return curve(segmenter=segmenter, arm=arm, size=size, replicate=replicate)


def panels_of(curves, null_arms=()) -> dict:
    """The axes of the figure of training, by their titles, as they are drawn."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save", lambda width, height, dpi, out, draw: draw(Figure()))
        patch.setattr(figures, "headline", lambda figure, *words: found.update({a.get_title(): a for a in figure.axes}))
        figures.plot_training(curves, frame("phantom", null_arms), None)
    return found


def test_training(tmp_path):
    curves = [curve(generator="ddpm"), of_arm("real"), of_arm("real", replicate=1)[:1]]
    figures.plot_training(curves, frame("phantom"), tmp_path / "a.png")
    check(tmp_path / "a.png", 11)


def test_trainings_without_a_loss_have_a_picture_all_the_same(tmp_path):
    """Of a segmenter that is the user's own nothing may be known but what it finds."""
    figures.plot_training([], frame("phantom"), tmp_path / "a.png")
    check(tmp_path / "a.png", 11)


def test_an_arm_s_loss_curve_has_the_arm_s_colour():
    """Seven arms are more than there are colours: the benchmark and the control have theirs, in every figure."""
    arms = ["a", "b", "c", "real", "d", "e", "null"]
    trainings = [(arm, size, i) for arm in arms for size in (25, 100) for i in (0, 1)]
    axis = panels_of([of_arm(*training) for training in trainings], ["null"])["segmenter unet"]
    expected = figures.arm_colours(arms, "real", ["null"])
    for line, (arm, size, _) in zip(axis.lines, trainings, strict=True):
        assert line.get_color() == expected[arm]
        assert line.get_linestyle() == ("-" if size == 25 else "--")
    assert len(axis.get_legend().get_texts()) == 14


def test_names_that_look_like_sizes_or_folders_are_names():
    """A segmenter `unet-2`, an arm `real-100` beside the arm `real` at 100 %, a generator called `segmentation`."""
    curves = [of_arm("real-100", segmenter="unet-2"), of_arm("real", segmenter="unet-2"), curve(generator="generator")]
    panels = panels_of(curves)
    assert set(panels) == {"segmenter unet-2", "generator"}
    said = {title: [text.get_text() for text in axis.get_legend().get_texts()] for title, axis in panels.items()}
    assert said["segmenter unet-2"] == ["real-100, 100 %: training", "real, 100 %: training"]
    assert said["generator"] == ["generator, 100 %: training", "generator, 100 %: validation"]


def test_a_generator_s_curves_at_two_sizes_can_be_told_apart():
    axis = panels_of([curve(generator="patch_ddpm", size=size) for size in (25, 100)])["generator"]
    assert [(line.get_linestyle(), line.get_marker()) for line in axis.lines] == [
        ("-", "None"), ("-", "o"), ("--", "None"), ("--", "o"),
    ]  # fmt: skip
    labels = [f"patch_ddpm, {size} %: {what}" for size in (25, 100) for what in ("training", "validation")]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == labels


def drawn(case, arms=("real", "real+synthetic")) -> pictures.Drawn:
    sure = np.where(case.nodules, 90, 0).astype(np.uint8)
    predictions = {arms[0]: [np.roll(sure, 1, axis=0), sure], arms[1]: [np.zeros_like(sure)]}
    return pictures.Drawn(case, predictions, "best change\na $case$")


def test_cases(drawable, tmp_path):
    """Three cases, one of them without a nodule, one arm with a replicate that found nothing."""
    several = [drawn(drawable(k, nodule=k > 0)) for k in range(3)]
    dice = [dict.fromkeys(several[0].predictions, 0.5)] * 3
    pictures.plot_cases(several, dice, "phantom", SETTINGS, tmp_path / "a.png")
    check(tmp_path / "a.png", 13.6)


def test_a_prediction_is_drawn_where_it_says_nodule(drawable, tmp_path):
    """49 % everywhere is the same picture as nothing; 50 % of the nodule is not."""
    case = drawable(1)
    images = []
    for k, percent in enumerate((np.zeros_like(case.nodules), np.full_like(case.nodules, 49), case.nodules * 50)):
        item = pictures.Drawn(case, {"real": [percent]}, "a case")
        pictures.plot_cases([item], [{"real": 0.5}], "phantom", SETTINGS, tmp_path / f"{k}.png")
        images.append((tmp_path / f"{k}.png").read_bytes())
    assert images[0] == images[1] != images[2]


@pytest.mark.parametrize(("n_gained", "n_lost"), [(6, 1), (0, 0)])
def test_turned(drawable, tmp_path, n_gained, n_lost):
    arms = ("real", "real+synthetic")
    gained, lost = ([(drawn(drawable(k), arms), 1) for k in range(n)] for n in (n_gained, n_lost))
    pictures.plot_turned(gained, lost, (9, n_lost), "phantom", SETTINGS, tmp_path / "a.png")
    check(tmp_path / "a.png", 12 if n_gained else 11)


NULL = ["real-reseeded"]


def test_ladder(big_study, tmp_path):
    summaries.plot_ladder(big_study["comparison"], N_TRAIN, 0.95, frame("a $tudy", NULL), tmp_path / "a.png")
    check(tmp_path / "a.png", 2.6 + 3 * 4.2)


def test_a_claim_fills_its_diamond(big_study, tmp_path):
    """The same numbers with a p that is too large make another picture: hollow."""
    rows = [row | {"p_holm": None if row["p_holm"] is None else 0.5} for row in big_study["comparison"]]
    summaries.plot_ladder(big_study["comparison"], N_TRAIN, 0.95, frame("a", NULL), tmp_path / "a.png")
    summaries.plot_ladder(rows, N_TRAIN, 0.95, frame("a", NULL), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_learning_curves(big_study, tmp_path):
    """An arm may be missing at a size."""
    rows = [row for row in big_study["comparison"] if (row["arm"], row["size"]) != ("real+copy-paste", 50)]
    summaries.plot_learning(rows, N_TRAIN, frame("phantom", NULL), tmp_path / "a.png")
    check(tmp_path / "a.png", 12)


def test_froc(big_study, tmp_path):
    summaries.plot_froc(big_study["froc"], N_TRAIN, frame("phantom", NULL), tmp_path / "a.png")
    check(tmp_path / "a.png", 1.2 + 5 * 2.5)


def test_summaries_of_a_tiny_study(scores, evaluation, tmp_path):
    """Two arms, one patient, no null arm: no intervals, still figures."""
    tiny = {arm: [row for row in scores[arm] if row["case"] in ("case00", "case20")] for arm in ("real", "synthetic")}
    rows = [row | {"size": 100} for row in compare(tiny, "real", ["case00"], evaluation)]
    summaries.plot_ladder(rows, {100: 3}, 0.95, frame("tiny"), tmp_path / "a.png")
    point = {"case": "a", "patient": "a", "replicate": "0", "n_nodules": 1, "threshold": 101, "found_nodules": 0,
             "false_positives": 0}  # fmt: skip
    froc = [row | {"size": 100} for row in froc_rows({"real": [point], "synthetic": [point]}, "real", 10, 0.95, 1)]
    summaries.plot_froc(froc, {100: 3}, frame("tiny"), tmp_path / "b.png")
    check(tmp_path / "a.png", 9)
    check(tmp_path / "b.png", 9)


def test_an_arm_has_one_colour_and_the_null_arm_is_grey():
    arms = ["a", "real", "null", "b"]
    assert figures.in_order(arms, "real", ["null"]) == ["real", "a", "b", "null"]
    colours = figures.arm_colours(arms, "real", ["null"])
    assert (colours["real"], colours["null"]) == (figures.INK, figures.NULL_COLOUR)
    assert (colours["a"], colours["b"]) == figures.COLOURS[:2]


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
