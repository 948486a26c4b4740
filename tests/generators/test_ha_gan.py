"""HA-GAN: slabs are those of the whole, critics are told where they lie, encoders learn, memory is that of a slab."""

import dataclasses
import json
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from lungsyn import checkpoint
from lungsyn.errors import InputError
from lungsyn.generators import ha_gan
from lungsyn.generators.core import training
from lungsyn.generators.core.patches import collate
from lungsyn.generators.networks import fields, hierarchical
from lungsyn.generators.networks.hierarchical import COARSE, Slab
from lungsyn.registry import family
from lungsyn.seams import Run, Scene
from lungsyn.settings.checking import check
from lungsyn.settings.compute import Compute
from lungsyn.settings.section import as_json
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import open_case
from lungsyn.volume.intensity import to_model_range
from lungsyn.volume.labels import LabelMap
from tests.conftest import killed_at
from tests.generators.joint_sets import ends_in_a_checked_set

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
FLOAT, DEVICE = torch.float32, torch.device("cpu")


@pytest.fixture(scope="module")
def settings() -> ha_gan.Settings:
    """One that runs in a second: slabs of 8 of 32 voxels; the cases are smaller and larger than its field."""
    return ha_gan.Settings(
        field_voxels=(32, 32, 32), slab_voxels=8, latent=8, channels=16, blocks=1, critic_channels=[8, 16], flips=True,
        images=12, batch_patches=2, warmup_images=2, ema_images=4, held_out=0.4, validation_patches=4,
        validation_every_images=4,
    )  # fmt: skip


@pytest.fixture(scope="module")
def network(settings):
    torch.manual_seed(1)
    return settings.learning().build().eval()


def latents(settings, count=2, seed=0):
    return torch.randn(count, settings.latent, generator=torch.Generator().manual_seed(seed))


def batch_of(folders, settings, count=3):
    examples = fields.WholeFields(folders, settings, 3)
    batch = collate([examples[i] for i in range(count)])
    batch.pop("cases")
    return batch


# -------------------------------------------------------------------------------------------------- slabs and the whole


@torch.no_grad()
def test_a_slab_alone_is_that_of_the_whole(network, settings):
    """At every place, the volume's ends too, and to its very ends."""
    features = network.generator.features(latents(settings))
    whole = network.generator.fine(features)
    assert whole.shape == (2, 2, *settings.field_voxels)
    for start in range(8 - 2 + 1):
        where = Slab(start, 2, 8)
        slab = network.generator.slab(features, where)
        torch.testing.assert_close(slab, whole[..., 4 * start : 4 * start + 8], atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_its_margin_a_slab_is_that_of_the_whole_only_away_from_its_ends(network, settings, monkeypatch):
    monkeypatch.setattr(hierarchical, "MARGIN", 0)
    features = network.generator.features(latents(settings))
    error = (network.generator.slab(features, Slab(2, 4, 8)) - network.generator.fine(features)[..., 8:24]).abs()
    assert error[..., 4:-4].max() < 1e-5 < error[..., :4].max()


@torch.no_grad()
def test_a_volume_is_made_slab_after_slab_as_at_once(network, settings):
    for thickness in (8, 24):  # the last slab is thinner
        slabs = hierarchical.slabs(settings.model_copy(update={"slab_voxels": thickness}))
        features = network.generator.features(latents(settings))
        parts = [network.generator.slab(features, where) for where in slabs]
        torch.testing.assert_close(torch.cat(parts, -1), network.generator.fine(features), atol=1e-5, rtol=0)
    made = network(latents(settings))
    torch.testing.assert_close(made, network.generator.fine(features), atol=1e-5, rtol=0)


@torch.no_grad()
def test_features_of_slabs_side_by_side_are_those_of_the_whole(network, settings):
    volume = torch.rand(1, 2, *settings.field_voxels)
    parts = [network.encoders.features(where.of_volume(volume)) for where in network.slabs]
    torch.testing.assert_close(torch.cat(parts, -1), network.encoders.features(volume), atol=1e-5, rtol=0)


def test_a_critic_is_told_where_its_slab_lies(settings):
    """The middle of each pair of slices, on a line from one end of the volume to the other; nothing else tells it."""
    volume = torch.zeros(1, 2, *settings.field_voxels)
    seen = {s: hierarchical.told(Slab(s, 2, 8).of_volume(volume), Slab(s, 2, 8)) for s in range(7)}
    places = [2 * (2 * k + 1) / 32 - 1 for k in range(16)]
    for start, what in seen.items():
        assert what.shape == (1, 17, 16, 16, 4)
        wanted = torch.tensor(places[2 * start : 2 * start + 4]).expand(16, 16, 4)
        torch.testing.assert_close(what[0, 16], wanted)
        assert torch.equal(what[:, :16], seen[0][:, :16])


def test_both_critics_judge_the_same_volume_the_real_one_at_the_same_place(settings, network, case_folders):
    batch = batch_of(case_folders, settings)
    learner, _ = settings.learning().learner(network, DEVICE)
    where = Slab(3, 2, 8)
    slab, whole = learner.judged(network.generator, batch["x_t"], batch["target"], where)
    torch.testing.assert_close(slab[1], hierarchical.told(batch["target"][..., 12:20], where))
    torch.testing.assert_close(slab[2], hierarchical.told(network(batch["x_t"])[..., 12:20], where))
    torch.testing.assert_close(whole[1], F.avg_pool3d(batch["target"], 4))
    assert whole[2].shape == whole[1].shape == (3, 2, 8, 8, 8)


def test_what_networks_see_of_a_volume_is_all_of_it():
    volume = torch.rand(2, 2, 8, 12, 4) * 2 - 1
    torch.testing.assert_close(hierarchical.from_seen(hierarchical.to_seen(volume)), volume)


def saved_bytes(compute) -> int:
    """Of all that autograd keeps for the way back but weights; tensors that share memory count once."""
    kept: dict[int, int] = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter):
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = compute()
    del result
    return sum(kept.values())


def test_a_step_keeps_a_slab_and_not_the_volume(settings):
    """Twice as long a volume, the same slab: as much is kept at full resolution; of a whole pass it is twice that."""
    kept = {}
    for length in (32, 64):
        s = settings.model_copy(update={"field_voxels": (32, 32, length), "slab_voxels": 8})
        torch.manual_seed(0)
        generator = s.learning().build().generator
        features = generator.features(latents(s, 1)).detach()
        where = Slab(3, 2, length // COARSE)
        kept[length] = (
            saved_bytes(lambda g=generator, f=features, w=where: g.slab(f, w)),
            saved_bytes(lambda g=generator, f=features: g.fine(f)),
        )
    assert kept[32][0] == pytest.approx(kept[64][0], rel=0.05)
    assert kept[64][1] > 1.8 * kept[32][1]
    assert kept[64][0] < 0.3 * kept[64][1]  # 8 voxels and their margins of 64, by their number 0.25


# ------------------------------------------------------------------------------------------------------ what is learned


def test_a_volume_lies_in_the_middle_and_of_a_larger_one_any_part_is_learned():
    volume = torch.arange(5.0)[None, :, None, None].expand(1, 5, 1, 1) + 1
    assert fields.in_field(volume, (8, 1, 1)).flatten().tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
    assert fields.in_field(volume, (3, 1, 1)).flatten().tolist() == [2, 3, 4]
    rng = np.random.default_rng(0)
    found = {tuple(fields.in_field(volume, (3, 1, 1), rng).flatten().tolist()) for _ in range(40)}
    assert found == {(1, 2, 3), (2, 3, 4), (3, 4, 5)}


def test_a_case_in_the_field_is_ct_and_mask_in_air(case_folders, settings):
    case = open_case(case_folders[0])  # 21 x 34 x 18 in 32 x 32 x 32
    volume, within = fields.volume_of(case, settings)
    assert volume.shape == (2, 32, 32, 32) and int(within.sum()) == 21 * 32 * 18
    inside = volume[:, 5:26, :, 7:25]
    np.testing.assert_allclose(inside[0], to_model_range(case.ct[:, 1:33], settings.window_hu), atol=1e-6)
    np.testing.assert_array_equal(inside[1] > 0, np.asarray(case.nodules[:, 1:33]) > 0)
    around = volume[:, within[0] == 0]
    assert set(around.unique().tolist()) == {-1.0}


def test_volumes_of_a_training_depend_on_their_number_only(settings, case_folders):
    one, other = (fields.WholeFields(case_folders, settings, 3) for _ in range(2))
    other[5]
    for a, b in zip(dataclasses.astuple(one[7]), dataclasses.astuple(other[7]), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    starts = {int(one[i].coarse) for i in range(60)}
    assert starts == set(range(7))  # a slab of 2 anywhere in 8
    watched = fields.WholeFields(case_folders, settings, 3, stratified=5)
    assert [watched[i].case for i in range(6)] == [0, 1, 2, 3, 4, 0]
    torch.testing.assert_close(watched[2].target, fields.volume_of(open_case(case_folders[2]), settings)[0])


def test_each_network_learns_from_its_own_losses(settings, case_folders):
    """The critics from theirs, the generator from the critics and from both encoders' errors, each encoder from its
    own: that of slabs learns nothing from the way through the latent vector."""
    torch.manual_seed(2)
    learning = settings.learning()
    network = learning.build()
    learner, _ = learning.learner(network, DEVICE)
    batch, where = batch_of(case_folders, settings), Slab(3, 2, 8)
    of = {
        "generator": network.generator.common[0].first.weight, "fine": network.generator.at_half.weight,
        "slab's encoder": network.encoders.pairs.weight, "encoder": network.encoders.last.weight,
        "slab's critic": learner.of_slab.first.weight, "critic": learner.of_whole.first.weight,
    }  # fmt: skip

    def reached(loss):
        gradients = torch.autograd.grad(loss, [*of.values()], allow_unused=True)
        return {name for name, g in zip(of, gradients, strict=True) if g is not None and g.any()}

    def judged():
        return list(learner.judged(network.generator, batch["x_t"], batch["target"], where))

    assert reached(fields.fooling_loss(judged())) >= {"generator", "fine"}
    assert reached(fields.critic_loss(judged(), 1.0)) == {"slab's critic", "critic"}
    assert reached(network.error_of_slab(batch["target"], where)) == {"fine", "slab's encoder"}
    assert reached(network.error_of_whole(batch["target"], where)) == {"generator", "fine", "encoder"}


def test_critics_learn_to_tell_and_the_generator_to_be_taken_for_real(settings, case_folders):
    """A critic that scores by the mean: its own loss falls as the real volume scores higher, the generator's rises."""

    class Mean(torch.nn.Module):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3, 4), keepdim=True)

    def losses(real, made):
        judged = [(Mean(), torch.full((2, 1, 4, 4, 4), real), torch.full((2, 1, 4, 4, 4), made))]
        return float(fields.critic_loss(judged, 0.0).detach()), float(fields.fooling_loss(judged))

    assert losses(1.0, -1.0) == pytest.approx((np.log1p(np.exp(-2)), np.log1p(np.exp(2))))
    assert losses(-1.0, 1.0) == pytest.approx((np.log1p(np.exp(2)), np.log1p(np.exp(-2))))
    steep = fields.critic_loss([(Mean(), torch.zeros(2, 1, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4))], 64.0)
    assert float(steep.detach()) == pytest.approx(np.log(2) + 1)  # the squared slope of a mean of 64 is 1/64


def test_after_a_training_encoders_find_more_of_a_volume_and_tell_volumes_apart(settings, case_folders, tmp_path):
    """A volume that is encoded and made again is nearer to itself than at the start, and another one is another."""
    longer = settings.model_copy(
        update={"field_voxels": (16, 16, 16), "images": 320, "learning_rate": 0.005, "flips": False}
    )
    learning, volumes = longer.learning(), [fields.volume_of(open_case(f), longer)[0] for f in case_folders[:2]]
    weights, _, _ = training.train(case_folders[:2], longer, Run(7, CPU, tmp_path))
    torch.manual_seed(0)
    before, after = learning.build(), learning.build()
    after.load_state_dict(weights)
    batch = {"target": torch.stack(volumes)}
    with torch.no_grad():
        errors = [float(learning.loss_map(n, batch, DEVICE, FLOAT).mean()) for n in (before, after)]
        alike = float(F.cosine_similarity(*after.encoded(batch["target"]), dim=0))
    assert errors[1] < 0.8 * errors[0], errors
    assert alike < 0.9


def test_a_killed_training_ends_bit_equal(settings, case_folders, tmp_path, monkeypatch):
    uninterrupted, facts, _ = training.train(case_folders, settings, Run(7, CPU, tmp_path / "whole"))
    with monkeypatch.context() as patched:
        patched.setattr(fields.Hierarchical, "examples", killed_at(fields.WholeFields, 6, signal.SIGTERM))
        with pytest.raises(SystemExit):
            training.train(case_folders, settings, Run(7, CPU, tmp_path / "killed"))
    resumed, facts_again, _ = training.train(case_folders, settings, Run(7, CPU, tmp_path / "killed"))
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)
    assert facts["best_loss"] == facts_again["best_loss"]


# ------------------------------------------------------------------------------------------------------- how it is made


@pytest.fixture(scope="module")
def model(settings, case_folders, tmp_path_factory):
    root = tmp_path_factory.mktemp("ha_gan")
    trained = family("generators", "ha_gan").fit(case_folders, settings, Run(7, CPU, root / "checkpoints"))
    about = {"generator": json.loads(as_json(settings))} | trained.facts  # what `generation train` writes
    checkpoint.save(root / "model.safetensors", trained.tensors, about)
    return root / "model.safetensors"


@pytest.fixture(scope="module")
def generator(model, settings):
    return family("generators", "ha_gan").load(model, settings, CPU, Synthesis())


def blank(shape) -> Scene:
    labels = LabelMap({name: np.zeros(shape, np.uint8) for name in ("nodules", "lungs", "body")})
    return Scene(labels, np.diag([2.0, 2.0, 2.0, 1.0]))


def test_the_same_seed_makes_the_same_volume_on_any_grid_within_the_field(generator):
    as_cut_out = dataclasses.replace(generator, real=generator.real | {"cut_out": True})  # no air is put around a body
    shapes = {
        "whole": ((32, 32, 32), 5),
        "again": ((32, 32, 32), 5),
        "other": ((32, 32, 32), 6),
        "part": ((20, 31, 13), 5),
    }
    made = {name: as_cut_out.sample(blank(shape), seed) for name, (shape, seed) in shapes.items()}
    whole = made["whole"].hu
    assert whole.dtype == np.int16 and whole.shape == (32, 32, 32)
    np.testing.assert_array_equal(whole, made["again"].hu)
    assert (whole != made["other"].hu).mean() > 0.2
    np.testing.assert_array_equal(made["part"].hu, whole[6:26, :31, 9:22])
    for volume in made.values():
        assert volume.labels.names == ("nodules", "lungs", "body") and volume.labels.shape == volume.hu.shape


def test_its_mask_channel_becomes_nodules(generator, monkeypatch):
    made = torch.full((1, 2, 32, 32, 32), -1.0)
    made[:, 1, 4:9, 10:15, 20:25] = 0.4
    made[:, 1, 20, 3, 3] = 0.4  # smaller than any nodule of the train cases
    monkeypatch.setattr(type(generator.network), "forward", lambda self, latent: made)
    nodules = generator.sample(blank((32, 32, 32)), 5).labels["nodules"]
    assert nodules[4:9, 10:15, 20:25].all() and nodules.sum() == 125


def test_a_grid_larger_than_the_field_is_refused(generator):
    with pytest.raises(InputError, match=r"a volume of 32 x 33 x 32 voxels was asked for.*32 x 32 x 32 at most: raise"):
        generator.sample(blank((32, 33, 32)), 5)


def test_a_field_smaller_than_the_train_cases_is_refused_before_the_training(settings, case_folders, tmp_path):
    small = settings.model_copy(update={"field_voxels": (24, 24, 24)})
    told = r"25 x 31 x 18 voxels \(median.*\), more than the 24 x 24 x 24 of generators.\*.field_voxels.*raise it"
    with pytest.raises(InputError, match=told):
        family("generators", "ha_gan").fit(case_folders, small, Run(7, CPU, tmp_path))


def test_its_loss_on_a_case_can_be_asked_for(generator, settings, case_folders):
    loss = generator.log_loss(case_folders[2], 3)
    volume, within = fields.volume_of(open_case(case_folders[2]), settings)
    with torch.no_grad():
        again = generator.network(generator.network.encoded(volume[None]))[0]
    error = (again - volume).abs().mean(dim=0)[within[0] > 0].double().mean()
    assert loss == pytest.approx(float(error.log()))
    assert len(generator.learned_from(case_folders, 7)) == 3  # of five two watch


def test_a_set_of_it_is_checked_audited_and_learned_from(cut_outs, settings, tmp_path):
    ends_in_a_checked_set(
        cut_outs, settings.model_copy(update={"field_voxels": (16, 16, 16)}), CPU, tmp_path, attackable=True
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"field_voxels": [60, 64, 64]}, "multiple of 8"),
        ({"slab_voxels": 72}, "slab_voxels is 72, more than the 64 of field_voxels along z: lower it"),
        ({"critic_channels": [8] * 5}, "critic_channels has 5 levels, but 8 voxels along an edge.*remove one"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        ha_gan.Settings(**wrong)


def test_several_gpus_and_sets_of_masks_are_refused(settings, study):
    raw = study.model_dump(mode="json")
    raw["generators"]["noise"] = settings.model_dump(mode="json")
    raw["sets"]["joint"] = raw["sets"]["untargeted"] | {"generator": "noise", "conditions": {"kind": "blank"}}
    assert check(raw).generators["noise"] == settings
    with pytest.raises(
        InputError, match=r"gpus is 2, but generators\.noise is a ha_gan, which one GPU trains: set gpus"
    ):
        check(raw | {"compute": raw["compute"] | {"gpus": 2}})
    raw["sets"]["joint"]["conditions"] = {"kind": "untargeted"}
    with pytest.raises(InputError, match=r"noise \(ha_gan\) makes the masks itself: it must be blank"):
        check(raw)


@pytest.mark.parametrize(
    ("shape", "count"), [((56, 56, 56), 1), ((64, 64, 64), 2), ((128, 96, 96), 3), ((16, 16, 16), 0)]
)
def test_features_are_halved_down_to_three_voxels(shape, count):
    assert ha_gan.Settings(field_voxels=shape, critic_channels=[8]).halvings == count
