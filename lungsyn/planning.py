"""What a study will cost before it is run: jobs per rule, hours, memory, disk.

Jobs are counted by Snakemake itself, over a made-up list of cases, so that the count follows the rules. Hours come from
rates, seconds per unit of work: measured ones where models of this machine recorded them, else the documented ones
below. Work is counted in voxels that a network sees, times what it does with each (``width``).
"""

import json
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from lungsyn.errors import InputError
from lungsyn.provenance import model_facts
from lungsyn.settings.checking import from_json
from lungsyn.settings.cohort import Cohort
from lungsyn.settings.generators import Generator, LatentDiffusion, TrainedGenerator
from lungsyn.settings.segmenters import Segmenter
from lungsyn.settings.study import Config
from lungsyn.volume.files import write_left_out
from lungsyn.volume.patches import MIRRORS
from lungsyn.volume.tables import read_table, write_table

CHEST_MM3 = 330 * 270 * 300  # around the lungs of an adult
CUT_OUT_MM3 = 51**3
CASE_BYTES = 5  # per voxel: int16 HU and three uint8 masks
DICOM_MB = 0.53  # one slice of 512 x 512

# Documented: cut-outs of 51^3 voxels with the networks of workflow/experiments/cubes.yaml, two CPU cores.
# seconds, voxels seen, width: generator, 14,000 patches; 20 steps of one volume; segmenter, 300 steps of four patches.
SECONDS_PER_WORK = {
    "train_generator": 1477 / (14_000 * 32**3 * 210),
    "synthesise": 3.8 / (20 * 51**3 * 210),
    "train_segmenter": 145 / (300 * 4 * 32**3 * 252),
}
CRITIC_WORK = 2.0  # a GAN's training, its generator's alone being 1: 0.22 and 0.11 s a patch with cubes_gan.yaml's
# What MONAI's networks take for as many channels and blocks, patch_ddpm's being 1: with cubes_latent.yaml's 0.14 and
# 0.28 s a patch (U-Net and ControlNet together), where patch_ddpm takes 0.10.
MONAI_WORK = {"autoencoder": 1.4, "latent_ddpm": 5.8}
GPU_RULES = ("train_generator", "synthesise", "train_segmenter", "predict")
# Over two CPU cores, roughly. Against the rates above an H200 trains a generator 90 (config.yaml's), 900
# (cubes_gpu.yaml's) and 2,400 times as fast (lidc.yaml's), and makes volumes with the last 1,100 times as fast;
# segmenters were not measured.
GPU_SPEEDUP = 1000
# Of other rules: a job's start.
SECONDS_PER_JOB = {"prepare": 20, "score": 60, "fidelity": 60, "plot_arms": 40, "plot_set": 40}
MEMORY_MB = {"train_generator": 4000, "synthesise": 3000, "train_segmenter": 3000, "predict": 2000, "prepare": 1500}
SMALL_SECONDS, SMALL_MB = 5, 500


def case_voxels(cohort: Cohort) -> float:
    """Voxels of one prepared case."""
    volume_mm3 = CHEST_MM3 if cohort.preprocess.field_of_view == "chest" else CUT_OUT_MM3
    return volume_mm3 / cohort.preprocess.spacing_mm**3


def width(network: Generator | Segmenter) -> float:
    """Multiplications per voxel up to a constant: channels squared, levels at an eighth of the voxels each.

    The first level of a generator and of ``unet`` is at half resolution already, that of latents at their spacing.
    """
    first, blocks = 1 if network.network == "unet" else 0, 1.0
    if isinstance(network, Generator):
        first, blocks = 1, network.blocks * MONAI_WORK.get(network.kind, 1.0)
    if isinstance(network, LatentDiffusion):
        first = len(network.autoencoder.channels)
    return blocks * sum(c**2 * 8.0 ** -(level + first) for level, c in enumerate(network.channels))


def generator_work(settings: Generator) -> float:
    work = settings.images * settings.patch_voxels**3 * width(settings)
    if isinstance(settings, LatentDiffusion):
        return work + generator_work(settings.autoencoder_training)
    return work * CRITIC_WORK if settings.kind == "patch_gan" else work


def segmenter_work(settings: Segmenter) -> float:
    return settings.steps * settings.batch_patches * settings.patch_voxels**3 * width(settings)


def seconds_per_work(results: Path) -> tuple[dict[str, float], set[str]]:
    """Rates per rule, and which of them were measured here: from the costs that models recorded."""
    found: dict[str, list[float]] = {}
    for path in results.glob("generator/**/model.safetensors"):
        facts = model_facts(path)
        settings = from_json(TrainedGenerator, json.dumps(facts["generator"]))
        work = generator_work(settings) * facts["images_seen"] / settings.images
        found.setdefault("train_generator", []).append(cpu_seconds(facts) / work)
    for path in results.glob("segmentation/**/model.safetensors"):
        facts = model_facts(path)
        work = segmenter_work(Segmenter.model_validate(facts["segmenter"]))
        found.setdefault("train_segmenter", []).append(cpu_seconds(facts) / work)
    return SECONDS_PER_WORK | {rule: statistics.median(rates) for rule, rates in found.items()}, set(found)


def cpu_seconds(facts: dict) -> float:
    """What a training took, in seconds of a CPU: those of a GPU count ``GPU_SPEEDUP`` times, for each of its GPUs."""
    seconds, ran_on = facts["cost"]["seconds"], facts.get("ran_on", "")
    processes = re.search(r"(\d+) processes", ran_on)
    return seconds * GPU_SPEEDUP * int(processes[1] if processes else 1) if ran_on.startswith("cuda") else seconds


def job_seconds(rule: str, wildcards: dict, study: Config, n_scored: int, rates: dict[str, float]) -> float:
    """Expected duration of one job."""
    voxels = case_voxels(study.cohort)
    if rule == "train_generator":
        return rates[rule] * generator_work(study.generators[wildcards["generator"]])
    if rule == "train_segmenter":
        return rates[rule] * segmenter_work(study.segmenters[wildcards["segmenter"]])
    if rule == "synthesise":
        settings = study.generators[wildcards["generator"]]
        if settings.kind == "copy_paste":
            return SECONDS_PER_JOB["prepare"]
        steps = 1 if settings.kind == "patch_gan" else study.synthesis.steps
        work = steps * voxels * width(settings)
        return rates[rule] * work * min(study.synthesis.volumes_per_job, study.sets[wildcards["set"]].volumes)
    if rule == "predict":
        settings = study.segmenters[wildcards["segmenter"]]
        seen = voxels * (1 - settings.overlap) ** -3 * n_scored * study.replicates
        seen *= len(MIRRORS) if settings.mirrored else 1
        return rates["train_segmenter"] / 3 * seen * width(settings)  # forward only
    return SECONDS_PER_JOB.get(rule, SMALL_SECONDS)


def disk_mb(study: Config, n_cases: int) -> dict[str, float]:
    """Disk that the results take, by what takes it."""
    megavoxels = case_voxels(study.cohort) / 1e6
    trained = [(segmenter, arm, size) for segmenter in study.segmenters
               for arm in study.arms_of(segmenter) for size in study.sizes_of(segmenter)]  # fmt: skip
    sets = {(study.arms[arm].synthetic, size) for _, arm, size in trained if study.arms[arm].synthetic}
    volumes = sum(study.sets[name].volumes for name, _ in sets)
    n_scored = n_cases * (study.cohort.split.validation + study.cohort.split.test)
    phantom = study.cohort.phantom
    slice_mb = DICOM_MB * (phantom.matrix / 512) ** 2
    return {
        "phantom": phantom.patients * phantom.max_slices * slice_mb if study.cohort.dataset == "phantom" else 0.0,
        "cases": n_cases * CASE_BYTES * megavoxels,
        "synthetic": volumes * CASE_BYTES * megavoxels,
        "predictions": n_scored * len(trained) * study.replicates * megavoxels,
    }


def expected_cases(study: Config) -> int:
    """Cases that a study can have at most, without reading one: patients, or entries of the raw data's folder."""
    root = study.cohort.root
    if root is None:
        return study.cohort.phantom.patients
    images = [folder for folder in (root / "images", root / "imagesTr", root) if folder.is_dir()]
    return len(os.listdir(images[0])) if images else 0


def listed_cases(folder: Path) -> int:
    """Cases that the study in ``folder`` has, as far as they are listed; 0 before."""
    table = folder / "results/cohort.tsv"
    return sum(row["status"] == "included" for row in read_table(table)) if table.exists() else 0


def check_disk(study: Config, folder: Path) -> None:
    """Raises InputError when what is still to be written does not fit. Counts folders, not bytes: it takes no time.

    LIDC-IDRI's patients, many of whom a study leaves out, are only warned of until the cases are listed."""
    listed = listed_cases(folder)
    need = disk_mb(study, listed or expected_cases(study))
    done = {part: len(os.listdir(path)) for part in ("cases", "synthetic", "predictions", "phantom")
            if (path := folder / "results" / part).is_dir()}  # fmt: skip
    missing_mb = sum(mb for part, mb in need.items() if not done.get(part))
    free_mb = shutil.disk_usage(folder).free / 1e6
    if missing_mb > free_mb:
        parts = ", ".join(f"{part} {mb / 1000:,.1f} GB" for part, mb in need.items() if mb and not done.get(part))
        message = (
            f"the study needs about {missing_mb / 1000:,.1f} GB of disk ({parts}), and {folder} has "
            f"{free_mb / 1000:,.1f} GB free: make room, or run it elsewhere (snakemake --directory FOLDER)"
        )
        if study.cohort.dataset != "lidc" or listed:
            raise InputError(message)
        print(f"{message}. It may be less: how many scans can be used is not known yet", file=sys.stderr, flush=True)


def jobs_of(configfiles: Sequence[Path], study: Config, n_cases: int) -> list[tuple[str, dict]]:
    """(rule, wildcards) of every job of the whole study with ``n_cases`` made-up cases; reads no data."""
    from snakemake.api import SnakemakeApi
    from snakemake.executors import touch
    from snakemake.settings.types import (
        ConfigSettings,
        DAGSettings,
        ExecutionSettings,
        OutputSettings,
        Quietness,
        ResourceSettings,
    )  # fmt: skip

    touch.Executor.SLEEPING_TIME = 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / ("raw" if study.cohort.root else "results/phantom/LIDC-IDRI")
        (raw / "series").mkdir(parents=True)
        write_made_up_cohort(folder / "results", list(splits(study, n_cases)))
        overlay = {"cohort": {"root": str(raw)}} if study.cohort.root else {}
        overlay |= {"audit": {"fidelity": {"weights": None}}}  # a path from another folder than this one
        listed, prepared = (DAGSettings(targets={f"results/{name}.tsv"}) for name in ("listing", "cohort"))
        for executor, settings in (("touch", listed), ("touch", prepared), ("dryrun", None)):
            with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
                workflow = api.workflow(
                    resource_settings=ResourceSettings(cores=1),
                    config_settings=ConfigSettings(config=overlay, configfiles=list(configfiles)),
                    snakefile=Path("Snakefile").resolve(),
                    workdir=folder,
                )
                workflow.dag(settings).execute_workflow(
                    executor=executor, execution_settings=ExecutionSettings(lock=False)
                )
                jobs = [(job.rule.name, job.wildcards_dict) for job in workflow._workflow.dag.jobs]
        return [(rule, wildcards) for rule, wildcards in jobs if rule != "all"]


def write_made_up_cohort(results: Path, split_of: list[str]) -> None:
    """The tables and the (empty) files of prepared cases, one for each split in ``split_of``."""
    from lungsyn.cohort import private, table

    cases = [f"case-{i}" for i in range(len(split_of))]
    rows = [
        dict.fromkeys(table.COLUMNS, "") | {
            "case": case, "patient": case, "split": split, "status": "included", "train_rank": i + 1, "n_nodules": 1,
        }
        for i, (case, split) in enumerate(zip(cases, split_of, strict=True))
    ]  # fmt: skip
    for name in ("listing", "cohort"):
        write_table(results / f"{name}.tsv", rows, table.COLUMNS)
    who = dict.fromkeys(private.COLUMNS, "") | {"source": "series"}
    private.write_names(results / "private/names.tsv", [who | {"case": case, "name": case} for case in cases])
    for case in cases:
        write_left_out(results / "cases" / case, {"case": case})


def splits(study: Config, n_cases: int) -> Iterator[str]:
    """The split of each made-up case, in the config's fractions."""
    for i in range(n_cases):
        place = (i + 0.5) / n_cases
        fractions = study.cohort.split
        yield (
            "train"
            if place < fractions.train
            else ("validation" if place < fractions.train + fractions.validation else "test")
        )


def plan(study: Config, jobs: list[tuple[str, dict]], n_cases: int, folder: Path) -> str:
    """The table that `lungsyn plan` prints; ``folder``, which need not be there yet, gets or has the results."""
    rates, measured = seconds_per_work(folder / "results")
    n_scored = sum(split != "train" for split in splits(study, n_cases))
    seconds: Counter = Counter()
    count = Counter(rule for rule, _ in jobs)
    for rule, wildcards in jobs:
        seconds[rule] += job_seconds(rule, wildcards, study, n_scored, rates)
    lines = [f"{'rule':<18}{'jobs':>7}{'CPU hours':>11}{'GPU hours':>11}{'memory, MB':>12}  rate"]
    for rule in sorted(count, key=lambda rule: -seconds[rule]):
        hours, gpu = seconds[rule] / 3600, rule in GPU_RULES
        gpu_hours = f"{hours / GPU_SPEEDUP:,.1f}" if gpu else ""
        source = "train_segmenter" if rule == "predict" else rule
        known = "documented" if source in SECONDS_PER_WORK or rule in SECONDS_PER_JOB else "assumed"
        basis = "measured here" if source in measured else known
        lines.append(
            f"{rule:<18}{count[rule]:>7,}{hours:>11,.1f}{gpu_hours:>11}{MEMORY_MB.get(rule, SMALL_MB):>12,}  {basis}"
        )
    trained = sum(seconds[rule] for rule in GPU_RULES) / 3600
    disk = disk_mb(study, n_cases)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return "\n".join([
        f"{study.study.name}: {n_cases:,} cases, {len(jobs):,} jobs", "", *lines, "",
        f"all: {sum(seconds.values()) / 3600:,.1f} CPU hours, or {trained / GPU_SPEEDUP:,.1f} GPU hours "
        f"(a GPU taken as {GPU_SPEEDUP:,} times two CPU cores: for large networks more, for small ones less) and "
        f"{sum(seconds.values()) / 3600 - trained:,.1f} CPU hours",
        f"disk: {sum(disk.values()) / 1000:,.1f} GB (" + ", ".join(f"{k} {v / 1000:,.1f}" for k, v in disk.items())
        + f"); free there: {shutil.disk_usage(there).free / 1e9:,.1f} GB",
    ])  # fmt: skip
