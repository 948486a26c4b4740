"""``python -m tests.benchmarks [NAME ...]``: measure the named claims, or all of them."""

import argparse
import dataclasses
import platform
import sys
from pathlib import Path

import torch
import yaml

from lungsyn.compute import choose_precision, describe, name_of, set_up
from lungsyn.segmenters.core.settings import SlidingWindow
from lungsyn.settings.checking import check
from lungsyn.settings.section import part
from lungsyn.settings.segmenters import settings_of
from tests.benchmarks import audit, cohort, disk, generator, growth, memory, quality, segmenter, studies
from tests.benchmarks.claims import CLOCKS, HEADER, Bench

ROOT = Path(__file__).parents[2]
BENCHMARKS = {
    "volume-vs-naive": generator.volume_vs_naive,
    "volume-vs-best-peer": generator.volume_vs_best_peer,
    "train-vs-monai": generator.train_vs_monai,
    "share": generator.share,
    "memory-volume": memory.memory_volume,
    "memory-train": memory.memory_train,
    "seam": quality.seam,
    "context": quality.context,
    "steps": quality.steps,
    "prepare-vs-plain": cohort.prepare_vs_plain,
    "index": cohort.index,
    "audit": audit.audit,
    "segmenter": segmenter.segmenter,
    "claims": studies.claims,
    "disk": disk.disk,
    "growth": growth.growth,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--config", type=Path, default=ROOT / "config.yaml")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="a study's results, for quality")
    parser.add_argument("--work", type=Path, help="where long ones go on from; default: benchmarks/ of the results")
    parser.add_argument("--quick", action="store_true", help="a small network and little of everything: minutes each")
    parser.add_argument("--images", type=int, default=0, help="length of trainings for claims about quality; 0: skip")
    parser.add_argument("--cases", type=int, default=2, help="unseen cases for claims about quality")
    parser.add_argument("--rounds", type=int, default=3, help="turns of ours and the peer")
    parser.add_argument("--voxels", type=int, default=128, help="edge of the timed volume")
    parser.add_argument("--step-counts", type=int, nargs="+", default=[5, 10, 20, 50, 250, 1000])
    if "--quick" in sys.argv:
        parser.set_defaults(images=160, rounds=1, voxels=64, step_counts=[5, 10, 20, 50])
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: the config's")
    parser.add_argument("--patches-per-batch", type=int, help="denoised at once; default: the config's")
    parser.add_argument("--threads", type=int, help="CPU threads; default: the config's")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine, 1 thread")
    told = parser.parse_args()
    if unknown := set(told.names) - set(BENCHMARKS):
        parser.error(f"unknown claim {', '.join(sorted(unknown))}: choose from {', '.join(BENCHMARKS)}")
    if told.clock == "cpu" and told.threads != 1:
        parser.error("--clock cpu counts waiting threads too: add --threads 1")
    return told


def bench_of(told: argparse.Namespace) -> Bench:
    """The study's settings and the sizes told."""
    study = check(yaml.safe_load(told.config.read_text()))
    here = {"device": told.device, "generator_threads": told.threads, "patches_per_batch": told.patches_per_batch}
    compute = study.compute.model_copy(update={key: value for key, value in here.items() if value})
    generator = next((one for one in study.generators.values() if one.kind == "patch_ddpm"), None)
    if generator is None:
        raise SystemExit(f"{told.config}: no generator of kind patch_ddpm, which is what is measured")
    trial = study.segmenters[study.benchmark.segmenter]
    if told.quick:
        generator = generator.model_copy(update={"channels": [16, 32]})
    return Bench(
        generator, study.synthesis, compute,
        settings_of(trial).model_copy(update={"steps": 5 if told.quick else 30}), part(trial, SlidingWindow),
        studies=500 if told.quick else 4000, volume_voxels=told.voxels, rounds=told.rounds,
        images=told.images, cases=told.cases, step_counts=tuple(told.step_counts), results=told.results,
        work=told.work or told.results / "benchmarks",
        clock=CLOCKS[told.clock],
    )  # fmt: skip


def main() -> None:
    told = arguments()
    bench = bench_of(told)
    set_up(bench.compute.generator_threads, bench.device, one_shape=True)
    if bench.device.type == "cuda":
        bench = dataclasses.replace(bench, clock=CLOCKS["gpu"])
    torch.manual_seed(0)
    precision = choose_precision(bench.compute, bench.device)  # once, for all of them
    compute = bench.compute.model_copy(update={"precision": name_of(precision)})
    bench = dataclasses.replace(bench, compute=compute)
    print(f"# {describe(bench.device, precision)}, torch {torch.__version__}, "
          f"Python {platform.python_version()}, {told.clock} clock")  # fmt: skip
    print(HEADER, flush=True)
    for name in told.names or BENCHMARKS:
        for claim in BENCHMARKS[name](bench):
            print(claim, flush=True)


if __name__ == "__main__":
    main()
