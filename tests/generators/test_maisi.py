"""MAISI's released networks: what they are told, that it learns and makes cases.

No released weights are here: `tests.generators.maisi` writes random ones in the published form."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.schedulers import DDPMScheduler, RFlowScheduler

from lungsyn import checkpoint, cli
from lungsyn.errors import InputError
from lungsyn.generators.core.samplers import noise_adder, sample
from lungsyn.generators.networks import maisi as own
from lungsyn.generators.networks.maisi import Conditions, Diffusion, Flow, Maisi, class_map, frame, regions_of
from lungsyn.masks.core.rows import untargeted
from lungsyn.provenance import file_digest, model_facts
from lungsyn.seams import Run, Scene
from lungsyn.settings.checking import check
from lungsyn.settings.section import as_json
from lungsyn.settings.segmenters import settings_of
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import open_case, read_json, write_case
from lungsyn.volume.labels import LabelMap
from lungsyn.volume.space import Space
from tests.conftest import made_case, make_case
from tests.generators.maisi import CPU, FAMILY, NOISE, VERSIONS, fitted, release, settings_for

DEVICE, FLOAT = torch.device("cpu"), torch.float32


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("maisi")
    return {version: release(root / version, version) for version in VERSIONS}


@pytest.fixture(scope="module")
def generators(folders, case_folders, tmp_path_factory) -> dict:
    """As released, of each version."""
    made = {}
    for version, folder in folders.items():
        settings = settings_for(folder, version)
        model = fitted(case_folders[:1], settings, tmp_path_factory.mktemp(version))
        made[version] = FAMILY.load(model, settings, CPU, Synthesis())
    return made


def scheduler(version: str):
    given = {key: value for key, value in NOISE[version].items() if key != "_target_"}
    return (RFlowScheduler if version == "rflow-ct" else DDPMScheduler)(**given)


# ------------------------------------------------------------------------------------------------------------- noise


def test_the_flow_ends_at_the_variance_of_the_data():
    """Oracle: of Gaussian data the expected z_0 is known, and Euler's steps lead noise to the data's own width."""
    flow, sd = Flow(scheduler("rflow-ct")), 0.5
    times, steps = flow.plan(200, (32, 32, 32), Synthesis())

    def denoiser(z_t, t):
        u = t / flow.timesteps
        return z_t * (1 - u) * sd**2 / ((1 - u) ** 2 * sd**2 + u**2)

    z = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    made = sample(denoiser, z, times, steps, noise_adder(torch.Generator()))
    assert times[0] == 1000 and times[-1] == 0 and times == sorted(set(times), reverse=True)
    assert float(made.std()) == pytest.approx(sd, rel=0.02)


def test_a_step_of_the_flow_is_that_of_monai():
    """Where the next time is a whole number: elsewhere MONAI rounds it down."""
    flow, monai = Flow(scheduler("rflow-ct")), scheduler("rflow-ct")
    monai.set_timesteps(3, input_img_size_numel=100)
    z, said = torch.randn(2, 1, 4, 3, 3, 3)
    for t, s in ((900.0, 700), (250.5, 100), (40.0, 0)):
        expected, z0 = monai.step(said, t, z, s)
        torch.testing.assert_close(flow.z0(said, z, t), z0)
        torch.testing.assert_close(z * (s / t) + z0 * (1 - s / t), expected)
    flow.plan(3, (8, 8, 8), Synthesis())
    z0 = torch.zeros(1, 4, 8, 8, 8)
    torch.manual_seed(0)
    z_t, t, target = flow.draw(z0)
    torch.testing.assert_close(flow.z0(target, z_t, float(t)), z0, atol=1e-5, rtol=0)


def test_the_noise_of_the_diffusion_is_that_of_monai():
    noise, monai = Diffusion(scheduler("ddpm-ct")), scheduler("ddpm-ct")
    z0 = torch.randn(1, 4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    for seed in range(5):
        torch.manual_seed(seed)
        z_t, told, target = noise.draw(z0)
        assert 0 <= int(told) < 1000
        torch.testing.assert_close(monai.add_noise(z0, target, told), z_t)
        ours = noise.z0(target, z_t, int(told) + 1)
        torch.testing.assert_close(ours, monai.step(target, int(told), z_t)[1], rtol=1e-3, atol=1e-3)
    times, _ = noise.plan(1000, (8, 8, 8), Synthesis(sampler="ddpm"))
    assert [noise.told(t) for t in times[:-1]] == list(range(999, -1, -1))


# ----------------------------------------------------------------------------------------------------- what it is told


def test_a_label_map_in_its_classes():
    """By hand: nodules lie on top, further labels above the lungs; the regions are those that the classes show."""
    body = np.zeros((5, 1, 1), np.uint8)
    body[:5] = 1
    lungs, airway, nodules = (np.zeros_like(body) for _ in range(3))
    lungs[1:4, 0, 0] = 1, 2, 2
    airway[2:4] = 1
    nodules[3] = 7
    labels = LabelMap({"nodules": nodules, "lungs": lungs, "body": body, "airway": airway})
    space = Space((6, 1, 1), np.eye(4))
    classes = class_map(labels, np.eye(4), space, {"airway": 132})
    assert classes.ravel().tolist() == [200, 30, 132, 23, 200, 0]
    conditions = Conditions.of(classes, Space((6, 1, 1), np.diag([1.5, 1.5, 2.0, 1])), DEVICE)
    numbers = (conditions.bits[0] * 2.0 ** torch.arange(8)[:, None, None, None]).sum(dim=0)
    assert numbers.ravel().tolist() == classes.ravel().tolist()
    assert conditions.spacing.tolist() == [[150, 150, 200]]
    assert conditions.top.tolist() == conditions.bottom.tolist() == [[0, 100, 0, 0]]
    assert regions_of(np.array([200, 22, 30, 93])) == (0, 3)
    assert regions_of(np.array([0, 200, 23])) == (1, 1)


@pytest.mark.parametrize(
    ("spacing_mm", "shape", "made_mm", "made"),
    [
        (2.0, (21, 34, 16), 2.0, (32, 48, 16)),
        (5.0, (21, 34, 9), 3.0, (48, 64, 16)),
        (0.25, (40, 8, 8), 0.5, (32, 16, 16)),
    ],
)
def test_a_grid_of_a_spacing_that_it_knows_is_only_padded(spacing_mm, shape, made_mm, made):
    grid = Space(shape, np.diag([spacing_mm] * 3 + [1.0]))
    space = frame(grid, 16)
    assert space.shape == made and space.spacing_mm == pytest.approx(made_mm)
    (low, high), (inner_low, inner_high) = space.bounds_mm(), grid.bounds_mm()
    assert (low <= inner_low + made_mm).all() and (high >= inner_high - made_mm).all()
    assert np.abs((low + high) / 2 - (inner_low + inner_high) / 2).max() <= made_mm  # around the middle


def test_hu_come_back_from_an_autoencoder_that_changes_nothing(folders, monkeypatch):
    """[-1000, 1000] HU is its [0, 1]; windows that overlap blend to the same."""
    network = Maisi(settings_for(folders["rflow-ct"]).files(), settings_for(folders["rflow-ct"]), DEVICE, FLOAT)
    assert network.factor == 4
    asked = []

    def encode(x):
        asked.append((float(x.min()), float(x.max()), tuple(x.shape[2:])))
        z = F.avg_pool3d(x, 4).repeat(1, 4, 1, 1, 1)
        return z, torch.zeros_like(z)

    monkeypatch.setattr(network.autoencoder, "encode", encode)
    monkeypatch.setattr(network.autoencoder, "decode", lambda z: F.interpolate(z[:, :1], scale_factor=4))
    hu = np.random.default_rng(0).integers(-1200, 1200, (40, 8, 4)).astype(np.int16)
    hu = hu.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    z = network.encode(hu, 0)
    assert z.shape == (1, 4, 40, 8, 4)
    torch.testing.assert_close(z[0, 0].mean(), torch.tensor(0.9 * (hu.clip(-1000, 1000).mean() + 1000) / 2000).float())
    assert np.array_equal(network.decode(z), hu.clip(-1000, 1000))
    windowed = Maisi(network.settings.files(), settings_for(folders["rflow-ct"], window_latents=32), DEVICE, FLOAT)
    windowed.autoencoder.encode, windowed.autoencoder.decode = encode, network.autoencoder.decode
    torch.testing.assert_close(windowed.encode(hu, 0), z)
    assert np.abs(windowed.decode(z) - hu.clip(-1000, 1000).astype(int)).max() <= 1
    assert [asked[0][2], *{size for _, _, size in asked[1:]}] == [(160, 32, 16), (128, 32, 16)]
    assert all(low >= 0 and high <= 1 for low, high, _ in asked)


# ---------------------------------------------------------------------------------------------------------- a volume


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("spacing_mm", [2.0, 5.0])
def test_a_seed_makes_its_volume(generators, version, spacing_mm):
    case, said = make_case(spacing_mm=spacing_mm, shape=(13, 12, 9)), []
    scene = Scene(case.labels, case.affine)
    one, again, other = (generators[version].sample(scene, seed, said.append).hu for seed in (5, 5, 6))
    assert one.dtype == np.int16 and one.shape == case.ct.shape
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert (one[case.body == 0] == -1000).all() and np.abs(one).max() <= 1000 and np.std(one[case.body > 0]) > 10
    assert said[-1] == Synthesis().steps


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_led_by_masks_spacing_and_regions(generators, version):
    """Region of the body: the diffusion model only, as in NVIDIA's configurations."""
    network = generators[version].network
    rng = np.random.default_rng(0)
    z_t, space = torch.randn(1, 4, 8, 8, 8), Space((32, 32, 32), np.eye(4))
    classes = rng.choice([0, 23, 30, 200], (32, 32, 32)).astype(np.uint8)
    conditions = Conditions.of(classes, space, DEVICE)

    def said(t=500.0, **changed):
        with torch.no_grad():
            return network(z_t, torch.tensor([t]), dataclasses.replace(conditions, **changed))

    assert torch.equal(said(), said())
    assert not torch.allclose(said(), said(t=100.0))
    assert not torch.allclose(said(), said(bits=1 - conditions.bits))
    assert not torch.allclose(said(), said(spacing=2 * conditions.spacing))
    legs = torch.tensor([[0.0, 0, 0, 100]])
    assert torch.equal(said(), said(bottom=legs)) == (version == "rflow-ct")
    assert torch.equal(said(), said(top=legs)) == (version == "rflow-ct")


def test_what_is_known_is_kept(generators):
    case = make_case(shape=(21, 20, 14))
    made = np.zeros(case.ct.shape, np.float32)
    made[:10] = 1
    made[10] = 0.5
    hu = generators["rflow-ct"].sample(Scene(case.labels, case.affine, known=case, made=made), 1).hu
    assert np.array_equal(hu[11:], np.asarray(case.ct)[11:])
    assert not np.array_equal(hu[:10], np.asarray(case.ct)[:10])


# ------------------------------------------------------------------------------------------------------------ settings


def test_settings_that_do_not_fit_are_refused(study, tmp_path):
    def refused(match, *, study_too=None, **changed):
        raw = study.model_dump(mode="json")
        raw["generators"]["maisi"] = {"kind": "maisi", "folder": str(tmp_path)} | changed
        for section, values in (study_too or {}).items():
            raw[section] |= values
        raw["generators"]["patch_ddpm"]["nodule_dropout"] = 0.1  # or it refuses guidance first
        with pytest.raises(InputError, match=match):
            check(raw)

    refused(r"generators\.maisi\.folder: weights must be an absolute path", folder="weights")
    refused(r"maisi\.classes has airway, which cohort\.labels has not", classes={"airway": 132})
    refused(r"maisi\.classes\.airway is 256", classes={"airway": 256})
    refused(r"guidance_scale is 2, but generators\.maisi is a maisi", study_too={"synthesis": {"guidance_scale": 2}})
    refused(r"compute\.gpus is 2, but generators\.maisi is a maisi", study_too={"compute": {"gpus": 2}})
    refused(r"maisi\.version is 'rflow-mr'", version="rflow-mr")


# -------------------------------------------------------------------------------------------------------- fine-tuning


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[Path]:
    """Two cases of 16^3 voxels once they are padded: 4^3 latents."""
    root = tmp_path_factory.mktemp("small")
    for i in range(2):
        write_case(root / f"small-{i}", make_case((14, 15, 12), seed=i, name=f"small-{i}"))
    return [root / f"small-{i}" for i in range(2)]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_control_net_learns_and_nothing_else(folders, small, version, tmp_path):
    settings = settings_for(folders[version], version, images=30, learning_rate=0.05, nodule_weight=4)
    network = Maisi(settings.files(), settings, DEVICE, FLOAT)
    trunk = {name: w.clone() for name, w in network.state_dict().items() if not name.startswith("control.")}
    model = fitted(small[:1], settings, tmp_path)
    generator = FAMILY.load(model, settings, CPU, Synthesis())
    learned = generator.network.state_dict()
    assert all(torch.equal(learned[name], weight) for name, weight in trunk.items())
    facts, tensors = model_facts(model), checkpoint.load(model)[0]
    assert facts["images_seen"] == 30 and {name.partition(".")[0] for name in tensors} == {"released", "control"}

    latents, conditions = own.encoded(small[0], network, 0), own.conditions_of(small[0], network)

    def loss(of: Maisi) -> float:
        """On the same noise for both, that no training saw."""
        torch.manual_seed(12)
        with torch.no_grad():
            return float(np.mean([float(own.case_loss(of, latents, *conditions)) for _ in range(20)]))

    assert loss(generator.network) < 0.96 * loss(network)  # most of it is the trunk's, whose weights are random


def test_nodules_have_a_weight(generators, case_folders):
    """By hand: latents with any voxel of a nodule."""
    network = generators["rflow-ct"].network
    latents, (conditions, nodules) = (
        own.encoded(case_folders[0], network, 0),
        own.conditions_of(case_folders[0], network),
    )
    torch.manual_seed(3)
    z_t, told, target = network.noise.draw(latents)
    with torch.no_grad():
        error = (network(z_t, told, conditions) - target).abs()
        torch.manual_seed(3)
        loss = own.case_loss(network, latents, conditions, nodules)
    cubes = nodules[0, 0].unfold(0, 4, 4).unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).amax(-1)
    assert 0 < cubes.mean() < 0.5
    assert float(loss) == pytest.approx(float((error * (1 + 99 * cubes)).mean()), rel=1e-5)


def test_a_stopped_training_goes_on_to_the_same_weights(folders, small, tmp_path, monkeypatch, capsys):
    """And other steps or another place of the folder are no reason to train again."""
    settings = settings_for(folders["rflow-ct"], images=5)
    whole = FAMILY.fit(small, settings, Run(7, CPU, tmp_path / "whole"))
    take, taken = own.case_loss, []

    def dying(*given):
        taken.append(1)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return take(*given)

    with monkeypatch.context() as patched:
        patched.setattr(own, "case_loss", dying)
        with pytest.raises(SystemExit) as stopped:
            FAMILY.fit(small, settings, Run(7, CPU, tmp_path / "stopped"))
    assert stopped.value.code == 128 + signal.SIGTERM and len(taken) == 3
    capsys.readouterr()
    went_on = FAMILY.fit(small, settings, Run(7, CPU, tmp_path / "stopped"))
    assert "from 3 of 5 cases seen" in capsys.readouterr().out
    assert went_on.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(went_on.tensors[name], weight) for name, weight in whole.tensors.items())
    losses = [[(r["images_seen"], r["loss"]) for r in trained.records] for trained in (whole, went_on)]
    assert losses[0] == losses[1] and [seen for seen, _ in losses[0]] == [1, 2, 3, 4, 5]

    moved = shutil.copytree(folders["rflow-ct"], tmp_path / "moved")
    again = settings.model_copy(update={"steps": 9, "folder": moved})
    FAMILY.fit(small, again, Run(7, CPU, tmp_path / "stopped"))
    assert "from 5 of 5 cases seen" in capsys.readouterr().out
    FAMILY.fit(small, settings, Run(8, CPU, tmp_path / "stopped"))
    assert "from 0 of 5 cases seen" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------------------------- in a study


def test_cases_are_made_as_by_any_generator(generators, case_folders, study):
    row, opened = untargeted(["case-0", "case-3"], 1, seed=0)[0], {folder.name: folder for folder in case_folders}
    cases = [
        made_case(generators["rflow-ct"], row, study.synthesis, lambda name: open_case(opened[name]), attempt)
        for attempt in (0, 0, 1)
    ]
    assert cases[0].digest == cases[1].digest != cases[2].digest
    assert len(cases[0].about["nodules"]) == 2


def test_it_goes_from_released_files_through_quality_control_to_an_arm(folders, case_folders, study, tmp_path):
    """By the commands of the workflow: trained, its cases made and checked, and a segmenter trained on them."""
    settings = settings_for(folders["rflow-ct"], images=2)
    of, cases = ["--of", "generator=maisi", "size=100"], [str(folder / "case.json") for folder in case_folders]
    compute = ["--compute", as_json(CPU)]

    def run(*told) -> None:
        assert cli.main([*map(str, told)]) == 0

    run("generation", "train", *of, "--generator", as_json(settings), "--seed", 1, "--cases", *cases[:2], *compute,
        "--checkpoints", tmp_path / "ck", "--model", tmp_path / "m.safetensors", "--curve", tmp_path / "curve",
        "--live", tmp_path / "live.png", "--cost", tmp_path / "cost.json")  # fmt: skip
    assert [json.loads(line)["images_seen"] for line in (tmp_path / "curve").read_text().splitlines()] == [1, 2]
    assert read_json(tmp_path / "cost.json")["seconds"] > 0
    run("generation", "conditions", "--of", "set=s", "size=100", "--conditions", '{"kind": "untargeted"}',
        "--volumes", 1, "--worst-cases", 0, "--seed", 1, "--cases", *cases[:2],
        "--out", tmp_path / "rows.tsv")  # fmt: skip
    quality = ["--quality", as_json(study.quality.model_copy(update={"tries": 1}))]
    run("generation", "reference", *of, "--grid", "null", *quality, "--cases", *cases, "--out", tmp_path / "r.json")
    run("generation", "synthesise", *of, "set=s", "--generator", as_json(settings), "--conditions",
        '{"kind": "untargeted"}', "--synthesis", as_json(study.synthesis), *quality, "--source", "null",
        "--model", tmp_path / "m.safetensors", "--reference", tmp_path / "r.json", "--rows", tmp_path / "rows.tsv",
        "--batch", 0, "--cases", *cases[:2], *compute, "--out", tmp_path / "made")  # fmt: skip
    (made,) = (tmp_path / "made").glob("*/case.json")
    about = read_json(made)
    assert about["made"]["inputs"]["model"] == file_digest(tmp_path / "m.safetensors")
    assert about["quality"]["attempt"] == 1 and about["quality"]["faults"]  # random weights make no chest
    tiny = settings_of(study.segmenters["unet"]).model_copy(
        update={"channels": [4, 8], "patch_voxels": 16, "steps": 2, "batch_patches": 1}
    )
    run("segmentation", "train", "--of", "segmenter=u", "arm=synthetic", "size=100", "replicate=0", "--segmenter",
        as_json(tiny), "--seed", 1, "--cases", "--synthetic", tmp_path / "made", "--checkpoints", tmp_path / "ck",
        *compute, "--model", tmp_path / "u.safetensors", "--curve", tmp_path / "curve")  # fmt: skip
    assert (tmp_path / "u.safetensors").exists()
