"""The critic of a patch GAN: is this patch of CT real, given its masks?

It says so not of the whole patch but of each neighbourhood (PatchGAN, Isola et al. 2017, arXiv 1611.07004), since a
patch is an arbitrary cut of a volume. It sees what the generator makes: Haar bands less what the masks say of the mean,
each scaled to its own width. Texture is in bands that are ten times narrower than the mean, and it would take long to
learn to look at them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lungsyn.generators.core.bands import band_sd, expected_blocks, inner, tissue_means, to_bands, to_half
from lungsyn.generators.core.learning import Learning, predict, update_average
from lungsyn.generators.networks.adversaries import Adversaries, Scores, squared_slope
from lungsyn.generators.networks.patch_unet import PatchUNet
from lungsyn.generators.patch_gan import Settings
from lungsyn.optimizer import without_momentum
from lungsyn.processes import ALONE, Team
from lungsyn.settings.synthesis import Synthesis
from lungsyn.steps import Steps


class Critic(Scores):
    """(bands of a CT patch, masks) -> a score per neighbourhood: the higher, the more real."""

    def __init__(self, settings: Settings):
        super().__init__(8 * (1 + len(settings.labels)), settings.critic_channels)
        self.register_buffer("band_sd", band_sd(), persistent=False)
        self.register_buffer("means", tissue_means(settings.window_hu), persistent=False)

    def bands(self, x: Tensor, masks: Tensor) -> Tensor:
        """What it sees of a patch ``x`` ``[b 1 x y z]`` in the model range: ``[b 8 x/2 y/2 z/2]``.

        Outside body and nodules nothing is generated, and nothing judged: there it sees air."""
        x = torch.where(masks.amax(dim=1, keepdim=True) > 0, x, self.means[0])
        bands = to_bands(x - expected_blocks(masks, self.means))
        return bands / self.band_sd[:, None, None, None]

    def forward(self, bands: Tensor, masks: Tensor) -> Tensor:
        """``bands`` as above, ``masks`` ``[b labels x y z]`` -> ``[b 1 x/d y/d z/d]``, d = 2^levels."""
        return super().forward(torch.cat([bands, to_half(masks.to(bands.dtype))], dim=1))


class Judged(Learning):
    """A generator and its critic learn against each other, each by the gradient of its own loss.

    The relativistic loss (Jolicoeur-Martineau 2019, arXiv 1807.00734): a made patch is to be taken for more real than
    the real one of the same masks. It needs none of the usual tricks if the critic's slope is kept small at real and at
    made patches (Huang et al. 2024, arXiv 2501.05441, Eq. 3 and 4)."""

    keeps_last = True  # the least squared error is that of the smoothest image, not of the most real one
    alone = True

    def __init__(self, settings: Settings):
        super().__init__(settings, context_factor=settings.context_factor, position=settings.position)

    def build(self) -> nn.Module:
        return PatchUNet(self).to(memory_format=torch.channels_last_3d)

    def learner(self, network, device):
        both = Adversaries(network, Critic(self.settings).to(device))
        return both, without_momentum(both.parameters(), self.settings.learning_rate, fused=device.type != "mps")

    def steps(self, forward, learner, optimizer, average, keep, precision, team: Team = ALONE) -> Steps:
        """They return the generator's squared error, which all generators have, and the gradient norm of the two
        together."""
        s = self.settings
        networks = [list(network.parameters()) for network in (learner.generator, learner.critic)]

        def step(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            masks = inner(batch["masks"])
            made = predict(forward, batch, keep.device, precision)
            error = self.mean_in_body((made - batch["target"]).square(), batch["masks"])
            made_bands = learner.critic.bands(made, masks)
            seen = torch.cat([learner.critic.bands(batch["target"], masks), made_bands.detach()]).requires_grad_()
            with torch.autocast(keep.device.type, dtype=precision, enabled=precision != torch.float32):
                scores = learner.critic(seen, torch.cat([masks, masks])).float()
                fooled = learner.critic(made_bands, masks).float()
            of_real, of_made = scores.chunk(2)
            penalty = squared_slope(scores, seen)
            critic_loss = F.softplus(of_made - of_real).mean() + s.slope_weight * penalty
            generator_loss = s.reconstruction_weight * error + F.softplus(of_real.detach() - fooled).mean()
            optimizer.zero_grad(set_to_none=True)
            for loss, weights in zip((generator_loss, critic_loss), networks, strict=True):
                loss.backward(inputs=weights)
            norms = [nn.utils.clip_grad_norm_(weights, s.gradient_norm) for weights in networks]
            optimizer.step()
            update_average(average, learner.generator, keep)
            return error.detach(), torch.stack(norms).norm()

        return Steps(step, keep.device)

    def sampling(self, synthesis: Synthesis) -> Synthesis:
        """From pure noise to x_0 at once, all patches fused."""
        return synthesis.model_copy(update={"steps": 1, "mode": "fused", "guidance_scale": 1.0})
