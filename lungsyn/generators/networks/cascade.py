"""Coarse to fine (cascaded diffusion, Ho et al. 2021, arXiv 2106.15282): a whole chest at once, then its patches.

*Coarse grid:* its voxels are cubes of ``factor`` voxels of the case, from the case's first corner on. The coarse CT is
the mean of each cube; the coarse masks are the shares of it that are nodule, lungs, body. At 8 mm a chest has some
40 x 30 x 40 of them: one network sees all, and decides once where spine, heart, airways and vessels are.

*Condition:* what the coarse CT says beyond what the masks say of it, interpolated to the voxels of a patch. It is
added to what the masks say of these: so the network of patches only has to correct a chest that has its spine, airway
and fat. In training the coarse CT is the case's own, in a volume it is the coarse model's. The second is less exact
than the first, so both get noise, and the network is told how much (conditioning augmentation, Section 3 there).

A coarse model sees few chests and could learn them by heart: so each is turned, stretched, bent and shifted at random.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from torch.utils.data import Dataset

from lungsyn.errors import InputError
from lungsyn.generators.cascade_ddpm import Settings, WholeChest
from lungsyn.generators.core.bands import HALO, expected_blocks, inner, tissue_means
from lungsyn.generators.core.canvas import Canvas, to_generate
from lungsyn.generators.core.learning import DiffusionLearning, Learning
from lungsyn.generators.core.patches import Example
from lungsyn.generators.core.prediction import diffuse, to_x0, training_target
from lungsyn.generators.core.samplers import noise_adder, plan, sample
from lungsyn.generators.core.schedule import middle_of_part, sampling_timesteps
from lungsyn.generators.core.synthesis import denoised_volume
from lungsyn.generators.networks.patch_unet import PatchUNet
from lungsyn.random import seed_of, stream
from lungsyn.volume.files import Case, open_case
from lungsyn.volume.intensity import AIR_HU, to_model_range
from lungsyn.volume.patches import Patch, padded_shape

# Standard deviation of the coarse CT's Haar bands within the body about what the masks tell, in the model range, by the
# number of axes along which they take a difference. Seven chests at 4, 6 and 8 mm: 0.33-0.41, 0.10-0.13, 0.06-0.08,
# 0.045.
COARSE_SD = (0.36, 0.12, 0.065, 0.045)
LED_SD = 0.29  # of a patch's mean band about what masks and coarse CT tell: 0.25 without noise, 0.33 with the most
# How a chest is varied in training: at most so many degrees about each axis; factors along each, and along all alike;
# millimetres (standard deviation) of each of so many points along an axis, between which it is bent smoothly.
TURN_DEGREES, STRETCH, STRETCH_ALIKE, BEND_MM, BEND_POINTS = 6.0, 1.16, 1.1, 4.0, 5
MOST_NOISE = 0.15  # on the condition in training, model range: 105 HU


# ------------------------------------------------------------------------------------------------------ the coarse grid


def filled_up(values: Tensor, shape, fill: float = 0.0) -> Tensor:
    """``values`` ``[... x y z]`` with ``fill`` at their far ends, so that they have this ``shape``."""
    x, y, z = (n - m for n, m in zip(shape, values.shape[-3:], strict=True))
    return F.pad(values, [0, z, 0, y, 0, x], value=fill)


def pooled(values: Tensor, edge: int, fill: float) -> Tensor:
    """Means of cubes of ``edge`` voxels of ``[x y z]``, float32; ``fill`` completes those at the far ends.

    A slab at a time: no second volume of float is ever held."""
    slabs = []
    for slab in values.split(edge):
        whole = filled_up(slab.float(), padded_shape(slab.shape, 1, edge), fill)
        slabs.append(F.avg_pool3d(whole[None], edge)[0])
    return torch.cat(slabs)


def interpolation(length: int, coarse: int, factor: int) -> Tensor:
    """Linear interpolation from ``coarse`` voxels along an axis to ``length`` voxels, ``factor`` times as small, and
    ``HALO`` beyond: float32 ``[length+2h coarse]``. Beyond the outermost centres and voxels values are constant."""
    index = torch.arange(-HALO, length + HALO, dtype=torch.float64).clamp(0, length - 1)
    at = ((index + 0.5) / factor - 0.5).clamp(0, coarse - 1)
    low = at.long().clamp(max=max(coarse - 2, 0))
    weights = torch.zeros(len(at), coarse, dtype=torch.float64)
    weights.scatter_add_(1, low[:, None], (1 - (at - low))[:, None])
    weights.scatter_add_(1, (low + 1).clamp(max=coarse - 1)[:, None], (at - low)[:, None])
    return weights.float()


def magnified(coarse: Tensor, lines: list[Tensor]) -> Tensor:
    """``coarse`` ``[x y z]`` interpolated along each axis by the matrices ``lines``: ``[x' y' z']``."""
    for line in lines:  # one axis after the other, each moved to the end
        coarse = torch.tensordot(coarse, line, dims=([0], [1]))
    return coarse


class Condition:
    """What patches of a volume get: ``coarse`` ``[x y z]``, the coarse CT less what the coarse masks say of it, with
    noise of ``noise_sd`` on it."""

    def __init__(self, coarse: Tensor, padded: tuple[int, int, int], factor: int, noise_sd: float):
        pairs = zip(padded, coarse.shape, strict=True)
        self.coarse, self.noise_sd = coarse, noise_sd
        self.lines = [interpolation(length, n, factor).to(coarse.device) for length, n in pairs]

    def of_patch(self, patch: Patch) -> Tensor:
        """That of a patch with its halo, and how much noise: ``[2 X+2h Y+2h Z+2h]``."""
        spans = zip(self.lines, *patch, strict=True)
        part = magnified(self.coarse, [line[start : start + n + 2 * HALO] for line, start, n in spans])
        return torch.stack([part, torch.full_like(part, 10 * self.noise_sd)])

    def of_patches(self, patches: list[Patch]) -> Tensor:
        """``[b 2 X+2h Y+2h Z+2h]`` of patches of one size."""
        return torch.stack([self.of_patch(patch) for patch in patches])


def beyond_masks(chest: Tensor, window_hu) -> Tensor:
    """What the CT of a coarse ``chest`` ``[1+labels x y z]`` says beyond its masks: ``[x y z]``."""
    return chest[0] - expected_mean(chest[None, 1:], tissue_means(window_hu).to(chest.device))[0, 0]


def coarse_ct(case: Case, edge: int, window_hu) -> Tensor:
    """Means of cubes of ``edge`` voxels in the model range: float32 ``[x y z]``."""
    return pooled(torch.from_numpy(to_model_range(case.ct, window_hu)), edge, float(to_model_range(AIR_HU, window_hu)))


def coarse_case(case: Case, labels: list[str], edge: int, window_hu) -> Tensor:
    """CT in the model range and shares of the masks, over cubes of ``edge`` voxels: float32 ``[1+labels x y z]``."""
    masks = [pooled(torch.from_numpy(np.asarray(mask) > 0), edge, 0.0) for mask in case.labels.stack(labels)]
    return torch.stack([coarse_ct(case, edge, window_hu), *masks])


def varied(chest: Tensor, air: float, shape, spacing_mm: float, rng: np.random.Generator) -> Tensor:
    """A ``chest`` ``[c x y z]`` turned, stretched, bent and put anywhere in a box of ``shape`` voxels that are twice as
    large; ``air`` around it. ``spacing_mm``: of the chest."""
    size = torch.tensor(chest.shape[1:], dtype=torch.float64)
    box = 2 * torch.tensor(shape, dtype=torch.float64)
    stretch = STRETCH ** rng.uniform(-1, 1, 3) * STRETCH_ALIKE ** rng.uniform(-1, 1)
    turn = Rotation.from_euler("xyz", rng.uniform(-TURN_DEGREES, TURN_DEGREES, 3), degrees=True).as_matrix()
    matrix = torch.from_numpy(turn / stretch)  # from the box to the chest, about the chest's centre
    room = box - size * torch.from_numpy(stretch)
    centre = box / 2 + torch.from_numpy(rng.uniform(-0.5, 0.5, 3)) * room.clamp(min=0)
    places = torch.stack(torch.meshgrid(*[torch.arange(int(n)) + 0.5 for n in box], indexing="ij"), dim=-1)
    source = ((places - centre) @ matrix.T + size / 2).float()
    points = torch.from_numpy(rng.standard_normal((1, 3, *[BEND_POINTS] * 3), dtype=np.float32))
    bend = F.interpolate(points, source.shape[:3], mode="trilinear", align_corners=True)[0].movedim(0, -1)
    source = source + bend * (BEND_MM / spacing_mm)
    fill = torch.zeros(len(chest), 1, 1, 1)
    fill[0] = air
    grid = (2 * source / size.float() - 1).flip(-1)
    moved = F.grid_sample((chest - fill)[None], grid[None], padding_mode="zeros", align_corners=False)[0] + fill
    return F.avg_pool3d(moved, 2)


class WholeChests(Dataset):
    """Chest number i of a training of the coarse model. Everything random about it derives from (seed, i)."""

    def __init__(self, folders: list[Path], settings: WholeChest, seed: int, stratified: int = 0):
        """``stratified``: if not 0, chest i takes the i-th of so many evenly spaced noise levels, unvaried."""
        if not folders:
            raise InputError("no case to train on: the cohort's train split is empty")
        self.settings, self.seed, self.stratified = settings, seed, stratified
        self.learning = LearningWhole(settings)
        self.cases = [open_case(folder) for folder in folders]
        self.air = float(to_model_range(AIR_HU, settings.window_hu))
        shapes = [coarse_shape(case.ct.shape, settings.factor, settings.channels) for case in self.cases]
        self.shape = tuple(max(axis) for axis in zip(*shapes, strict=True))
        self.chests: dict[int, Tensor] = {}  # at half the coarse spacing: a thousandth of the cases' bytes

    def __len__(self) -> int:
        return 2**62

    def chest(self, number: int) -> Tensor:
        """The case at half the coarse spacing, float16."""
        if number not in self.chests:
            s = self.settings
            self.chests[number] = coarse_case(self.cases[number], s.labels, s.factor // 2, s.window_hu).half()
        return self.chests[number].float()

    def __getitem__(self, i: int) -> Example:
        s, learning = self.settings, self.learning
        rng = stream(self.seed, "watched chest" if self.stratified else "chest", i)
        number = int(rng.integers(len(self.cases)))
        spacing_mm = float(self.cases[number].space.spacing_mm.mean()) * s.factor
        t = learning.timestep(rng)
        if self.stratified:
            t = middle_of_part(i, self.stratified, learning.timesteps)
            chest = self.chest(number)
            box = [2 * n for n in self.shape]
            chest = torch.cat([filled_up(chest[:1], box, self.air), filled_up(chest[1:], box)])
            chest = F.avg_pool3d(chest, 2)
        else:
            chest = varied(self.chest(number), self.air, self.shape, spacing_mm / 2, rng)
            flipped = [1 + axis for axis in range(3) if s.flips and rng.random() < 0.5]
            chest = chest.flip(flipped) if flipped else chest
            if rng.random() < learning.nodule_dropout:
                chest[1] = 0
        x0, masks = chest.split([1, len(chest) - 1])
        noise = torch.from_numpy(rng.standard_normal(x0.shape, dtype=np.float32))
        abar = learning.abar[t].float()
        return Example(
            diffuse(x0, noise, abar), training_target(learning.prediction, x0, noise, abar), masks, torch.zeros(0),
            torch.tensor(t), torch.tensor(spacing_mm, dtype=torch.float32), None, number,
        )  # fmt: skip


def coarse_shape(shape, factor: int, channels: list[int]) -> tuple[int, int, int]:
    """Of a volume's coarse grid, as the network takes it: padded at its far ends."""
    return padded_shape([-(-n // factor) for n in shape], 1, 2 ** len(channels))


# --------------------------------------------------------------------------------------------------------- the networks


def expected_mean(masks: Tensor, means: Tensor) -> Tensor:
    """What the shares of nodule, lungs and body ``[b 3+ x y z]`` say of a mean: ``[b 1 x y z]``, model range; ``means``
    are those of air, other tissue, lungs and nodules."""
    nodule, lung, body = masks[:, :3].split(1, dim=1)
    air, tissue, lungs, nodules = means
    lung = torch.minimum(lung, 1 - nodule)
    rest = (body - lung - nodule).clamp(min=0)
    return air + (tissue - air) * rest + (lungs - air) * lung + (nodules - air) * nodule


class CoarseUNet(PatchUNet):
    """The patch U-Net on a coarse chest: its masks are shares, its outermost voxels are repeated beyond its ends."""

    def __init__(self, learning: Learning):
        super().__init__(learning)
        self.band_sd.copy_(torch.tensor([COARSE_SD[i.bit_count()] for i in range(8)]))

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor) -> Tensor:
        """Its prediction ``[b 1 x y z]`` of ``x`` ``[b 1 x y z]`` and ``masks`` ``[b labels x y z]``; ``t`` and spacing
        ``[b]``."""
        nothing = x.new_zeros(len(x), 0, *(n // 2 for n in x.shape[2:]))
        x, masks = (F.pad(values, [HALO] * 6, mode="replicate") for values in (x, masks))
        return super().forward(x, masks, nothing, t, spacing_mm)

    def expected(self, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        return expected_mean(masks, self.means), coarse


class LedUNet(PatchUNet):
    """The patch U-Net of which the coarse CT says the mean, beside the masks."""

    def __init__(self, learning: Learning):
        super().__init__(learning)
        self.band_sd[0] = LED_SD

    def expected(self, masks: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor]:
        """``coarse``: of ``Condition``, ``[b 2 P+2h P+2h P+2h]``."""
        return expected_blocks(masks, self.means) + coarse[:, :1], F.avg_pool3d(inner(coarse), 2)


class Cascade(nn.Module):
    """The denoiser of patches, called as such, with the coarse model that leads it: that does not learn here."""

    def __init__(self, whole: Learning, fine: Learning):
        super().__init__()
        self.coarse = CoarseUNet(whole).requires_grad_(False)
        self.fine = LedUNet(fine)

    def forward(self, x: Tensor, masks: Tensor, coarse: Tensor, t: Tensor, spacing_mm: Tensor, *source) -> Tensor:
        return self.fine(x, masks, coarse, t, spacing_mm, *source)


# -------------------------------------------------------------------------------------- what is learned, how it is made


class LearningWhole(Learning):
    """The training of the coarse model, on whole chests."""

    what = kind = "whole chest"
    examples = WholeChests

    def __init__(self, settings: WholeChest):
        keys = ("schedule", "timesteps", "timestep_density", "prediction", "nodule_dropout")
        super().__init__(settings, **{key: getattr(settings, key) for key in keys})

    def build(self) -> nn.Module:
        return CoarseUNet(self).to(memory_format=torch.channels_last_3d)

    def weight(self, masks: Tensor) -> Tensor:
        """The share of the body, more of nodules; nothing is cut off, since a whole chest has no halo."""
        return torch.maximum(masks[:, 2:3], masks[:, :1]) + self.more(masks[:, :1])


class LearningDetail(DiffusionLearning):
    """The training of the denoiser of patches once the coarse model has learned, and how both make volumes."""

    condition_channels = 2

    def __init__(self, settings: Settings, condition: Condition | None = None):
        """``condition``: of the volume that is being made."""
        super().__init__(settings)
        self.condition = condition
        self.whole: dict[str, Tensor] | None = None  # weights of the coarse model, once it has learned
        self.coarse: dict[int, Tensor] = {}  # CT of the train cases

    def first(self, train):
        self.whole, facts, _ = train(self.settings.whole_training)
        return {"whole": facts}

    def build(self) -> nn.Module:
        network = Cascade(self.settings.whole_training.learning(), self)
        if self.whole is not None:
            network.coarse.load_state_dict(self.whole)
        return network.to(memory_format=torch.channels_last_3d)

    def seen(self, case: Case, padded, start, rng) -> Tensor:
        s, factor = self.settings, self.settings.whole.factor
        if id(case) not in self.coarse:
            self.coarse[id(case)] = beyond_masks(coarse_case(case, s.labels, factor, s.window_hu), s.window_hu)
        coarse, noise_sd = on_grid(self.coarse[id(case)], padded, factor), MOST_NOISE * float(rng.random())
        coarse = coarse + noise_sd * torch.from_numpy(rng.standard_normal(coarse.shape, dtype=np.float32))
        return Condition(coarse, padded, factor, noise_sd).of_patch(Patch(start, (s.patch_voxels,) * 3))

    def surroundings(self, x: Tensor) -> Callable[[list], Tensor]:
        return self.condition.of_patches

    def volume(self, network, canvas, synthesis, seed, how) -> Tensor:
        s = self.settings
        chest = whole_chest(network.coarse, canvas, s.whole_training.learning(), seed, how.precision)
        coarse = beyond_masks(chest, s.window_hu)
        add_noise = noise_adder(torch.Generator(coarse.device).manual_seed(seed_of(seed, "noise on the whole chest")))
        add_noise(coarse, s.whole.noise_sd)
        condition = Condition(coarse, canvas.padded, s.whole.factor, s.whole.noise_sd)
        return denoised_volume(network, canvas, LearningDetail(s, condition), synthesis, seed, how)


def on_grid(coarse: Tensor, padded, factor: int) -> Tensor:
    """``coarse`` ``[x y z]`` of a case on the coarse grid of its ``padded`` volume: beyond the case nothing is said."""
    return filled_up(coarse, [-(-n // factor) for n in padded])


@torch.no_grad()
def whole_chest(
    network: nn.Module, canvas: Canvas, learning: LearningWhole, seed: int, precision: torch.dtype
) -> Tensor:
    """The coarse chest of a canvas ``[1+labels x y z]``: CT in the model range, where it is known the known one's, and
    the masks' shares."""
    s, device = learning.settings, canvas.masks.device
    masks = torch.stack([pooled(mask, s.factor, 0.0) for mask in canvas.masks])
    shape, box = masks.shape[1:], coarse_shape(canvas.padded, s.factor, s.channels)
    masks = filled_up(masks, box)
    background, share = torch.full(box, canvas.air, device=device), torch.ones(box, device=device)
    if canvas.background is not None:
        background = filled_up(pooled(canvas.background, s.factor, canvas.air), box, canvas.air)
        share = filled_up(pooled(canvas.weight, s.factor, 0.0), box)
    made = to_generate(masks, share)
    spacing = torch.full((1,), canvas.spacing_mm * s.factor, device=device)

    def denoiser(x: Tensor, t: int) -> Tensor:
        x_t, times = x[None, None], torch.full((1,), t, device=device)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            said = network(x_t, masks[None], masks, times, spacing).float()
        x0 = to_x0(learning.prediction, said, x_t, learning.abar[t].float())[0, 0].clamp_(-1, 1)
        return torch.where(made, torch.lerp(background, x0, share), background)

    timesteps = sampling_timesteps(learning.timesteps, min(s.steps, learning.timesteps))
    add_noise = noise_adder(torch.Generator(device).manual_seed(seed_of(seed, "noise of the whole chest")))
    x = torch.zeros(box, device=device)
    add_noise(x, 1.0)
    x = sample(denoiser, x, timesteps, plan("dpmpp_2m", learning.abar, timesteps), add_noise)
    return torch.cat([x[None], masks])[(slice(None), *[slice(n) for n in shape])]
