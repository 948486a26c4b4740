import pytest
import torch
import torch.nn.functional as F

from lungsyn.generation.bands import LUNG_HU, NODULE_HU, TISSUE_HU, band_sd, from_bands, to_bands
from lungsyn.generation.network import build, channel_norm, coarse_channels
from lungsyn.generation.prediction import to_x0


def inputs(settings, batch=2):
    p = settings.patch_voxels
    coarse = torch.randn(batch, coarse_channels(settings), p // 2, p // 2, p // 2)
    masks = torch.randint(0, 2, (batch, 3, p, p, p), dtype=torch.uint8)
    return torch.randn(batch, 1, p, p, p), masks, coarse, torch.randint(1, 50, (batch,)), torch.ones(batch)


@pytest.mark.parametrize("network", ["patch_unet", "monai"])
@pytest.mark.parametrize(("position", "context"), [(True, 2), (False, 0), (True, 0)])
def test_output_has_the_patch_s_shape(generator_settings, network, position, context):
    settings = generator_settings.model_copy(
        update={"network": network, "position": position, "context_factor": context}
    )
    arguments = inputs(settings)
    assert build(settings)(*arguments).shape == arguments[0].shape


def test_every_input_matters(generator_settings):
    network = build(generator_settings)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
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
        network = build(generator_settings.model_copy(update={"activation_checkpointing": checkpointing})).train()
        torch.manual_seed(1)
        network(*inputs(generator_settings)).square().sum().backward()
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_a_fresh_network_is_the_best_linear_denoiser(generator_settings, prediction):
    """For Gaussian bands of the standard deviations that it assumes, about the mean m that it takes from the masks:
    E[x_0 | x_t] = m + sqrt(abar) sd^2 c_in^2 (x_t - sqrt(abar) m)."""
    settings = generator_settings.model_copy(update={"prediction": prediction})
    network, (x, masks, *others) = build(settings), inputs(settings)
    abar = network.abar[others[1]][:, None, None, None, None].double()
    sd = band_sd()[:, None, None, None].double()
    nodule, lung, body = masks.double().unbind(1)
    hu = nodule * NODULE_HU + (1 - nodule) * (lung * LUNG_HU + (1 - lung) * (body * TISSUE_HU - (1 - body) * 1000))
    low, high = settings.window_hu
    blocks = F.avg_pool3d(2 * (hu[:, None] - low) / (high - low) - 1, 2)  # their mean is all that the masks tell
    mean = to_bands(F.interpolate(blocks, scale_factor=2))
    guess = mean + abar.sqrt() * sd**2 / (abar * sd**2 + 1 - abar) * (to_bands(x.double()) - abar.sqrt() * mean)
    x0 = to_x0(prediction, network(x, masks, *others).double(), x.double(), abar)
    assert torch.allclose(x0, from_bands(guess), atol=2e-3)
