"""Speed of the generator: whole volumes and training steps against MONAI's parts, and against bare convolutions."""

import operator
import statistics
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from lungsyn.compute import choose_precision, has_bfloat16
from lungsyn.generators import patch_ddpm
from lungsyn.generators.core.bands import HALO
from lungsyn.generators.core.canvas import Canvas, How, make_canvas
from lungsyn.generators.core.synthesis import synthesise
from lungsyn.generators.core.training import hold_out
from lungsyn.generators.networks.patch_unet import coarse_channels
from lungsyn.optimizer import Muon
from tests.benchmarks import peers, quality
from tests.benchmarks.claims import Bench, Claim, compare, in_turns, seconds, skipped, warm_up
from tests.benchmarks.peers import build

CONVOLUTIONS = (nn.Conv3d, nn.ConvTranspose3d)
PROFILE_ROWS = 12


def full_canvas(voxels: int, bench: Bench) -> Canvas:
    """A cube that is all body, so that no patch is skipped: the dearest volume of its size."""
    masks = np.ones((3, voxels, voxels, voxels), np.uint8)
    masks[0] = 0
    return make_canvas(masks, 1.0, bench.generator, bench.device)


def our_volume(bench: Bench) -> Callable[[], Tensor]:
    """The whole synthesis of one volume at the study's settings."""
    network = build(bench.generator).to(bench.device).eval()
    canvas = full_canvas(bench.volume_voxels, bench)
    precision = choose_precision(bench.compute, bench.device)
    batch = bench.patches_at_once
    return lambda: synthesise(network, canvas, bench.generator, bench.synthesis, 0, How(batch, precision))


def volume_vs_naive(bench: Bench) -> list[Claim]:
    """One volume against 1,000 ancestral steps of half-overlapping patches with MONAI's U-Net in float32."""
    settings, batch = peers.equal_settings(bench.generator), bench.patches_at_once
    unet = build(settings).unet.to(bench.device).eval()
    patches = peers.patch_count(bench.volume_voxels, settings.patch_voxels, peers.NAIVE_OVERLAP)
    times = patches / batch * peers.NAIVE_STEPS / bench.peer_steps
    naive = peers.naive_steps(unet, settings, batch, bench.peer_steps)
    naive()
    ours, peer = in_turns([our_volume(bench), naive], bench, warm=False)
    sizes = f"{peers.parameters(unet):,} parameters (ours {peers.parameters(build(bench.generator)):,})"
    measured = (
        f"one volume of {bench.volume_voxels}^3, {bench.synthesis.mode}, {bench.synthesis.steps} steps, timed whole; "
        f"MONAI {settings.channels}, {sizes}, float32, {patches} patches x {peers.NAIVE_STEPS} steps, of which "
        f"{batch} x {bench.peer_steps} timed and multiplied by {times:,.0f}"
    )
    return [compare("volume-vs-naive", ours, [times * p for p in peer], "s", measured, 1000)]


def volume_vs_best_peer(bench: Bench) -> list[Claim]:
    """One volume against the same number of fused steps by ``sliding_window_inference`` with MONAI's U-Net."""
    settings, batch = peers.equal_settings(bench.generator), bench.patches_at_once
    unet, precision = build(settings).unet.to(bench.device).eval(), choose_precision(bench.compute, bench.device)
    step = peers.fused_step(unet, settings, bench.volume_voxels, batch, precision)
    ours, peer = in_turns([our_volume(bench), step], bench, warm=False)
    steps = bench.synthesis.steps
    measured = (
        f"one volume of {bench.volume_voxels}^3, {steps} steps, ours timed whole; MONAI {settings.channels}, "
        f"{precision}, channels-last, sliding_window_inference, overlap {peers.BEST_OVERLAP}, "
        f"one step timed, times {steps}"
    )
    return [compare("volume-vs-best-peer", ours, [steps * p for p in peer], "s", measured, 5)]


def random_batch(settings: patch_ddpm.Settings, device: torch.device) -> dict:
    """A batch as the loader gives it to a training on this device, of random values."""
    b, p, half = settings.batch_patches, settings.patch_voxels, settings.patch_voxels // 2
    wide = p + 2 * HALO
    batch = {
        "x_t": torch.randn(b, 1, wide, wide, wide),
        "target": torch.randn(b, 1, p, p, p),
        "masks": torch.ones(b, len(settings.labels), wide, wide, wide, dtype=torch.uint8),
        "coarse": torch.randn(b, coarse_channels(settings.learning()), half, half, half),
        "t": torch.full((b,), settings.timesteps // 2),
        "spacing_mm": torch.ones(b),
    }
    return {key: tensor.pin_memory() for key, tensor in batch.items()} if device.type == "cuda" else batch


def training_step(
    network: nn.Module, settings: patch_ddpm.Settings, device, precision: torch.dtype
) -> Callable[[], None]:
    """One whole optimiser step as the training does it, the loading of patches left out."""
    network, batch = network.to(device), random_batch(settings, device)
    optimizer, keep = Muon(network.parameters(), 1e-4, fused=True), torch.full((), 0.99, device=device)
    average = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    take = settings.learning().steps(network, network.train(), optimizer, average, keep, precision)
    return lambda: take(batch)


def train_vs_monai(bench: Bench) -> list[Claim]:
    """Training steps per second, each in its better precision; with ``images`` and cases also what is learned."""
    ours, theirs = bench.generator, peers.equal_settings(bench.generator)
    device = bench.device
    steps = [training_step(build(ours), ours, device, choose_precision(bench.compute, device))]
    unet, names = build(theirs), ["float32", "bfloat16"] if has_bfloat16(device) else ["float32"]
    steps += [training_step(unet, theirs, device, getattr(torch, name)) for name in names]
    mine, *others = in_turns(steps, bench)
    best, name = min(zip(others, names, strict=True), key=lambda pair: statistics.median(pair[0]))
    per_patch = [[t / ours.batch_patches for t in times] for times in (mine, best)]
    measured = (
        f"forward, backward, optimiser, EMA on {ours.batch_patches} patches of {ours.patch_voxels}^3; "
        f"MONAI {theirs.channels} in {name}, its better precision here"
    )
    return [compare("train-vs-monai", *per_patch, "s per patch", measured, 3), *_held_out_losses(bench, theirs)]


def _held_out_losses(bench: Bench, theirs: peers.Settings) -> list[Claim]:
    """The best held-out loss of both networks after equal images on the same patches."""
    name = "train-vs-monai held-out loss"
    folders = quality.train_folders(bench)
    if not (bench.images and folders and hold_out(folders, bench.generator, 0)[1]):
        return [skipped(name, "give --results (train cases, one to hold out) and --images (length of two trainings)")]
    ours, peer = (quality.trained(bench, settings).loss for settings in (bench.generator, theirs))
    measured = f"lowest held-out loss within {bench.images} patches of {len(folders)} train cases, one seed"
    return [Claim(name, ours, peer, peer / ours, measured, ">= 1x", ours <= peer)]


def share(bench: Bench) -> list[Claim]:
    """The convolutions alone, each at its best and by itself, against the whole training step that holds them."""
    precision = choose_precision(bench.compute, bench.device)
    network = build(bench.generator)
    step = training_step(network, bench.generator, bench.device, precision)
    calls = convolution_calls(network, step)
    warm_up(step, bench)
    whole, alone = [], []
    for _ in range(bench.rounds):
        whole.append(min(seconds(step, bench.clock) for _ in range(3)))
        alone.append(sum(convolution_seconds(*call, precision, bench) for call in calls))
    fractions = [a / w for a, w in zip(alone, whole, strict=True)]
    fraction = statistics.median(fractions)
    measured = (
        f"s per step of {bench.generator.batch_patches} patches, peer: its {len(calls)} convolutions alone, "
        f"forward and backward, {precision}, best of 6 each; {len(fractions)} rounds, "
        f"{min(fractions):.2f} to {max(fractions):.2f}"
    )
    return [
        Claim("share", statistics.median(whole), statistics.median(alone), fraction, measured, ">= 0.5",
              fraction >= 0.5, profile_lines(step, bench.device))
    ]  # fmt: skip


def convolution_calls(network: nn.Module, run: Callable[[], None]) -> list[tuple[nn.Module, torch.Size, bool]]:
    """Every convolution of one step: the module, its input's shape, and whether the input needs a gradient."""
    calls, hooks = [], []
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            hook = lambda m, inputs, _: calls.append((m, inputs[0].shape, inputs[0].requires_grad))  # noqa: E731
            hooks.append(module.register_forward_hook(hook))
    run()
    for hook in hooks:
        hook.remove()
    return calls


def convolution_seconds(
    module: nn.Module, shape: torch.Size, needs_gradient: bool, precision: torch.dtype, bench: Bench
) -> float:
    """Forward and backward of one convolution by itself, channels-last, nothing to convert: the best of six."""
    layout = torch.channels_last_3d
    arguments = module.in_channels, module.out_channels, module.kernel_size, module.stride, module.padding
    alone = type(module)(*arguments, dtype=precision, device=bench.device).to(memory_format=layout)
    x = torch.randn(shape, dtype=precision, device=bench.device).contiguous(memory_format=layout)
    x.requires_grad_(needs_gradient)
    gradient = torch.randn_like(alone(x))
    wanted = [*alone.parameters(), *([x] if needs_gradient else [])]
    return min(seconds(lambda: torch.autograd.grad(alone(x), wanted, gradient), bench.clock) for _ in range(6))


def profile_lines(step: Callable[[], None], device: torch.device) -> list[str]:
    """The operators that a step spends its time in, largest first, as lines of text."""
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as recorded:
        for _ in range(3):
            step()
        if on_gpu:
            torch.cuda.synchronize()
    time_of = operator.attrgetter("self_device_time_total" if on_gpu else "self_cpu_time_total")
    events = sorted(recorded.key_averages(), key=time_of, reverse=True)
    total = sum(map(time_of, events))
    return [
        f"{time_of(event) / total:6.1%}  {event.key[:100]}  ({event.count // 3} calls per step)"
        for event in events[:PROFILE_ROWS]
    ]
