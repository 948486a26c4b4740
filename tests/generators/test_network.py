import pytest
import torch
import torch.nn.functional as F

from lungsyn.generators.core.bands import HALO, LUNG_HU, NODULE_HU, TISSUE_HU, band_sd, inner, shares
from lungsyn.generators.core.prediction import diffuse, to_x0
from lungsyn.generators.networks.patch_unet import channel_norm, coarse_channels
from tests.conftest import network_of, without_zeros


def inputs(settings, batch=2):
    p = settings.patch_voxels
    coarse = torch.randn(batch, coarse_channels(settings.learning()), p // 2, p // 2, p // 2)
    wide = (p + 2 * HALO,) * 3
    masks = torch.randint(0, 2, (batch, 3, *wide), dtype=torch.uint8)
    return torch.randn(batch, 1, *wide), masks, coarse, torch.randint(1, 50, (batch,)), torch.ones(batch)


@pytest.mark.parametrize(("position", "context"), [(True, 2), (False, 0), (True, 0)])
def test_output_has_the_patch_s_shape(generator_settings, position, context):
    settings = generator_settings.model_copy(update={"position": position, "context_factor": context})
    arguments = inputs(settings)
    assert network_of(settings)(*arguments).shape == (2, 1, *[settings.patch_voxels] * 3)


def test_every_input_matters(generator_settings):
    network = without_zeros(network_of(generator_settings), 0.1)
    arguments = list(inputs(generator_settings))
    reference = network(*arguments)
    changed = [arguments[0] + 1, 1 - arguments[1], arguments[2] + 1, 51 - arguments[3], arguments[4] * 3]
    for i, other in enumerate(changed):
        assert not torch.allclose(network(*[*arguments[:i], other, *arguments[i + 1 :]]), reference, atol=1e-4), i


def test_norm_of_a_voxel_does_not_depend_on_the_others():
    """Group norm fails this: there the same voxel in two overlapping patches would be normalised differently."""
    x = torch.randn(1, 8, 6, 6, 6)
    whole, part = channel_norm(x), channel_norm(x[..., :3])
    assert torch.allclose(whole[..., :3], part, atol=1e-6)


def test_activation_checkpointing_changes_memory_not_gradients(generator_settings):
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = network_of(generator_settings.model_copy(update={"activation_checkpointing": checkpointing})).train()
        torch.manual_seed(1)
        network(*inputs(generator_settings)).square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def predicting(settings, prediction):
    """``settings`` of what is predicted; the velocity is that of a flow, which knows how noisy its straight path is."""
    flow = {"objective": "flow"} if prediction == "velocity" else {"prediction": prediction}
    return settings.model_copy(update=flow)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample", "velocity"])
def test_of_pure_noise_a_fresh_network_makes_what_the_masks_tell(generator_settings, prediction):
    settings = predicting(generator_settings, prediction)
    network, (x, masks, coarse, t, spacing) = network_of(settings), inputs(settings)
    t = torch.full_like(t, settings.timesteps)
    abar = network.abar[t][:, None, None, None, None].double()
    nodule, lung, body = inner(masks).double().unbind(1)
    hu = nodule * NODULE_HU + (1 - nodule) * (lung * LUNG_HU + (1 - lung) * (body * TISSUE_HU - (1 - body) * 1000))
    low, high = settings.window_hu
    blocks = F.avg_pool3d(2 * (hu[:, None] - low) / (high - low) - 1, 2)  # their mean is all that the masks tell
    x0 = to_x0(prediction, network(x, masks, coarse, t, spacing).double(), inner(x).double(), abar)
    assert torch.allclose(x0, F.interpolate(blocks, scale_factor=2), atol=2e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample", "velocity"])
@pytest.mark.parametrize("width", [0.4, 1.0, 2.5])
@pytest.mark.parametrize("abar", [0.998, 0.99, 0.94])
def test_a_fresh_network_is_nearly_the_best_denoiser_of_a_texture_it_was_not_told_of(
    generator_settings, prediction, width, abar
):
    """Gaussian texture in lung, ``width`` times as strong as usual. The best denoiser, Wiener's, has the error
    S (1 - abar) / (abar S + 1 - abar) where the spectrum is S, and it needs S. The same filters made for the usual
    widths have up to 2.7 times that error."""
    torch.manual_seed(0)
    settings = predicting(generator_settings.model_copy(update={"timesteps": 1000}), prediction)
    network, (x, masks, coarse, t, spacing) = network_of(settings), inputs(settings, batch=8)
    masks = torch.tensor([0, 1, 1], dtype=torch.uint8)[:, None, None, None].expand_as(masks).contiguous()
    impulse = torch.zeros_like(x[:1])
    impulse[0, 0, 8, 8, 8] = width
    sd = band_sd()[:, None, None, None]
    transfer = torch.fft.fftn((sd * shares(impulse)).sum(dim=1, keepdim=True), dim=(2, 3, 4))
    texture = torch.fft.ifftn(torch.fft.fftn(torch.randn_like(x), dim=(2, 3, 4)) * transfer, dim=(2, 3, 4)).real
    t = (network.abar - abar).abs().argmin().expand(8)
    abar, spectrum = network.abar[t[0]], transfer.abs().square()
    best = (spectrum * (1 - abar) / (abar * spectrum + 1 - abar)).mean()

    low, high = settings.window_hu
    x0 = texture + 2 * (LUNG_HU - low) / (high - low) - 1
    x_t = diffuse(x0, torch.randn_like(x), abar)
    with torch.no_grad():
        found = to_x0(prediction, network(x_t, masks, coarse, t, spacing), inner(x_t), abar)
    assert float((found - inner(x0)).square().mean()) < 1.25 * float(best)


@pytest.mark.parametrize("abar", [0.998, 0.9, 0.2])
def test_the_guess_is_the_same_whichever_patch_a_voxel_lies_in(generator_settings, abar):
    """Two patches meet in the middle of a texture that is stronger on one side; a fresh network guesses the same at the
    end of one and inside the other, but for 3 % since the halo itself ends somewhere. Without it they differ by 12 to
    21 %, and in the outermost voxels by 23 to 39 %."""
    torch.manual_seed(0)
    network, (_, _, coarse, t, spacing) = network_of(generator_settings), inputs(generator_settings, batch=1)
    t = (network.abar - abar).abs().argmin().expand(1)
    texture = F.avg_pool3d(torch.randn(1, 1, 42, 22, 22), 3, 1) * torch.linspace(0.2, 2, 40)[:, None, None]
    masks = torch.tensor([0, 1, 1], dtype=torch.uint8)[:, None, None, None].expand(1, 3, 40, 20, 20)
    x_t = diffuse(0.3 * texture, torch.randn_like(texture), network.abar[t])
    with torch.no_grad():
        one, other = (network(x_t[:, :, a : a + 20], masks[:, :, a : a + 20], coarse, t, spacing) for a in (0, 8))
    differs = (one[:, :, 8:] - other[:, :, :8]).square().mean().sqrt()
    assert float(differs / one.std()) < 0.04
