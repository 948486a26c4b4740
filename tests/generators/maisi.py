"""MAISI's released files in small: the published layout and form, few channels, random weights."""

import json
from pathlib import Path

import torch

from lungsyn import checkpoint
from lungsyn.generators.maisi import Settings
from lungsyn.generators.networks.released import Configuration
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.settings.compute import Compute
from tests.conftest import without_zeros

CPU = Compute(device="cpu", precision="float32", generator_threads=1, checkpoint_seconds=3600)
VERSIONS = ["rflow-ct", "ddpm-ct"]
FAMILY = family("generators", "maisi")
MONAI = "monai.apps.generation.maisi.networks"
SHAPES = {"spatial_dims": "@spatial_dims", "in_channels": "@latent_channels"}
DENOISER = {
    "num_channels": [8, 16], "attention_levels": [False, True], "num_head_channels": [0, 8], "num_res_blocks": 1,
    "norm_num_groups": 8, "use_flash_attention": True,
}  # fmt: skip
NOISE = {
    "rflow-ct": {
        "_target_": "monai.networks.schedulers.rectified_flow.RFlowScheduler", "num_train_timesteps": 1000,
        "use_discrete_timesteps": False, "use_timestep_transform": True, "sample_method": "uniform", "scale": 1.4,
    },
    "ddpm-ct": {
        "_target_": "monai.networks.schedulers.ddpm.DDPMScheduler", "num_train_timesteps": 1000, "beta_start": 0.0015,
        "beta_end": 0.0195, "schedule": "scaled_linear_beta", "clip_sample": False,
    },
}  # fmt: skip


def configuration(version: str) -> dict:
    """As NVIDIA's, but for the numbers of channels."""
    flow = version == "rflow-ct"
    further = {"num_class_embeds": 128, "resblock_updown": True, "include_fc": True} if flow else {}
    return {
        "spatial_dims": 3, "image_channels": 1, "latent_channels": 4, "include_body_region": not flow,
        "autoencoder_def": {
            "_target_": f"{MONAI}.autoencoderkl_maisi.AutoencoderKlMaisi", "spatial_dims": "@spatial_dims",
            "in_channels": "@image_channels", "out_channels": "@image_channels", "latent_channels": "@latent_channels",
            "num_channels": [8, 8, 8], "num_res_blocks": [1, 1, 1], "norm_num_groups": 4, "norm_eps": 1e-06,
            "attention_levels": [False, False, False], "with_encoder_nonlocal_attn": False,
            "with_decoder_nonlocal_attn": False, "use_checkpointing": False, "use_convtranspose": False,
            "norm_float16": True, "num_splits": 1, "dim_split": 1,
        },
        "diffusion_unet_def": {
            "_target_": f"{MONAI}.diffusion_model_unet_maisi.DiffusionModelUNetMaisi", **SHAPES,
            "out_channels": "@latent_channels", "include_top_region_index_input": "@include_body_region",
            "include_bottom_region_index_input": "@include_body_region", "include_spacing_input": True,
            **DENOISER, **further,
        },
        "controlnet_def": {
            "_target_": f"{MONAI}.controlnet_maisi.ControlNetMaisi", **SHAPES, **DENOISER, **further,
            "conditioning_embedding_in_channels": 8, "conditioning_embedding_num_channels": [8, 8, 8],
        },
        "mask_generation_diffusion_def": {"_target_": "scripts.adagn_unet.DiffusionModelUNetMaisiAdaGN"},
        "noise_scheduler": NOISE[version],
    }  # fmt: skip


def paths(folder: Path, version: str) -> dict[str, Path]:
    return {
        "configuration": folder / f"configs/config_network_{version.removesuffix('-ct')}.json",
        "autoencoder": folder / "models/autoencoder_v1.pt",
        "unet": folder / f"models/diff_unet_3d_{version}.pt",
        "control": folder / f"models/controlnet_3d_{version}.pt",
    }


def release(folder: Path, version: str = "rflow-ct") -> Path:
    """Write the files of a release with random weights; returns ``folder``."""
    from lungsyn.generators.networks import released as own

    there = paths(folder, version)
    for path in there.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    there["configuration"].write_text(json.dumps(configuration(version)))
    config, off = Configuration(there["configuration"]), {"use_flash_attention": False}
    torch.manual_seed(3)
    autoencoder = config.build("autoencoder_def", own.AutoencoderKlMaisi)
    unet = without_zeros(config.build("diffusion_unet_def", own.DiffusionModelUNetMaisi, **off), 0.1)
    control = without_zeros(config.build("controlnet_def", own.ControlNetMaisi, **off), 0.1)
    torch.save(autoencoder.state_dict(), there["autoencoder"])
    about = {"epoch": 3, "loss": torch.tensor(0.2)}
    scale = {"num_train_timesteps": 1000, "scale_factor": torch.tensor(0.9)}
    torch.save(about | scale | {"unet_state_dict": unet.state_dict()}, there["unet"])
    torch.save(about | {"controlnet_state_dict": control.state_dict()}, there["control"])
    return folder


def settings_for(folder: Path, version: str = "rflow-ct", **changed) -> Settings:
    return Settings(folder=folder, version=version, **{"steps": 3, "multiple_voxels": 16} | changed)


def fitted(cases, settings, root: Path, seed: int = 7) -> Path:
    """A model file, as the command line writes it."""
    trained = FAMILY.fit(cases, settings, Run(seed, CPU, root / "checkpoints"))
    about = {"generator": settings.model_dump(mode="json")} | trained.facts
    checkpoint.save(root / "model.safetensors", trained.tensors, about)
    return root / "model.safetensors"
