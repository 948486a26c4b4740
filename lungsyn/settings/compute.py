"""``compute``: where and how it runs; changing it reruns nothing."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lungsyn.settings.section import Count, Section


class Compute(Section):
    """Where and how it runs; changing it reruns nothing."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto",
        description="auto: bfloat16 where the device has instructions for it, else float32",
    )
    gpus: Count = Field(default=1, description="GPUs that train one generator together, a process for each")
    generator_threads: Count = Field(default=2, description="CPU threads of generator training and synthesis")
    segmenter_threads: Count = Field(default=1, description="CPU threads of one segmenter's training")
    loader_processes: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        default="auto", description="Processes that make patches; 0: the training one; auto: 0 without a CUDA GPU"
    )
    patches_per_batch: Count | Literal["auto"] = Field(
        default="auto", description="Patches the generator sees at once in synthesis; auto: as many as fill a GPU"
    )
    checkpoint_seconds: Count = Field(default=60, description="Time between two checkpoints of a training")
    compile: bool = Field(default=False, description="torch.compile the networks (CUDA)")

    @model_validator(mode="after")
    def _gpus_exist(self):
        if self.gpus > 1 and self.device in ("cpu", "mps"):
            raise ValueError(f"gpus is {self.gpus}, but device is {self.device!r}: set gpus to 1, or device to cuda")
        return self
