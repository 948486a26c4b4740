"""What a study will cost before it is run: jobs per rule, hours where they were measured, disk.

Jobs are counted by Snakemake itself, over a made-up list of cases, so that the count follows the rules. Hours are told
of trainings and volumes only, and only where this folder has one that was made with the same settings, whatever its
length: what another machine took says nothing of this one.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lungsyn.cohort.split import assign_folds, folds_of
from lungsyn.errors import InputError
from lungsyn.folds import columns_of
from lungsyn.provenance import model_facts
from lungsyn.registry import family, kinds
from lungsyn.settings.checking import merge
from lungsyn.settings.cohort import Cohort
from lungsyn.settings.segmenters import DEFAULT_KIND, settings_of
from lungsyn.settings.study import Config
from lungsyn.volume.files import read_json, write_json, write_left_out
from lungsyn.volume.tables import read_table, write_table

CHEST_MM3 = 330 * 270 * 300  # around the lungs of an adult
CUT_OUT_MM3 = 51**3
# Bytes per voxel on disk. Measured: the three labels together 0.034 (seven chests at 1 mm), 0.056 (phantoms at 3 mm);
# a prediction 0.009 (phantoms) and 0.17 (the chests, by a segmenter of 500 steps, unsure of a third of the voxels).
CT_BYTES, LABEL_BYTES, PREDICTION_BYTES = 2, 0.02, 0.17
DICOM_MB = 0.53  # one slice of 512 x 512


def case_voxels(cohort: Cohort) -> float:
    """Voxels of one prepared case."""
    volume_mm3 = CHEST_MM3 if cohort.preprocess.field_of_view == "chest" else CUT_OUT_MM3
    return volume_mm3 / cohort.preprocess.spacing_mm**3


def measured(results: Path) -> dict[tuple[str, str], tuple[float, str]]:
    """Median seconds for each unit of work, and what it ran on, by rule and settings (of volumes by generator): patches
    of a generator's training, steps of a segmenter's, volumes."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for path in results.glob("generator/**/model.safetensors"):
        facts = model_facts(path)
        of = "train_generator", _but_length(facts["generator"], "images")
        units = facts.get("images_seen", 1)  # a family that counts none takes about as long each time
        found.setdefault(of, []).append((facts["cost"]["seconds"] / units, facts.get("ran_on", "")))
    for path in results.glob("segmentation/**/model.safetensors"):
        facts = model_facts(path)
        kind = facts.get("kind", DEFAULT_KIND)
        if kind not in kinds("segmenters"):  # of a package that is gone
            continue
        of, units = _segmenter(kind, facts["segmenter"])
        found.setdefault(of, []).append((facts["cost"]["seconds"] / units, facts.get("ran_on", "")))
    for path in results.glob("synthetic/*/*/*/*/*/case.json"):
        about = read_json(path)
        if "generator" in about:  # an older version's case does not say who made it
            found.setdefault(("synthesise", about["generator"]), []).append(
                (about["cost"]["seconds"], about["made"].get("ran_on", ""))
            )
    return {of: (statistics.median(s for s, _ in values), values[0][1]) for of, values in found.items()}


def _segmenter(kind: str, settings: dict) -> tuple[tuple[str, str], int]:
    """What trainings of a segmenter share that take as long for each unit of work, and how many units one is."""
    length = family("segmenters", kind).length
    return ("train_segmenter", f"{kind} {_but_length(settings, length)}"), settings.get(length, 1)


def _but_length(settings: dict, length: str) -> str:
    return json.dumps({key: value for key, value in settings.items() if key != length}, sort_keys=True)


def job_seconds(rule: str, wildcards: dict, study: Config, rates: dict) -> tuple[float, str] | None:
    """Expected seconds of one job and what they were measured on; None where nothing like it was."""
    if rule == "train_generator":
        settings = study.generators[wildcards["generator"]].model_dump(mode="json")
        of, units = (rule, _but_length(settings, "images")), settings.get("images", 1)
    elif rule == "train_segmenter":
        trial = study.segmenters[wildcards["segmenter"]]
        of, units = _segmenter(trial.kind, settings_of(trial).model_dump(mode="json"))
    elif rule == "synthesise":
        of = rule, wildcards["generator"]
        units = min(study.synthesis.volumes_per_job, study.sets[wildcards["set"]].volumes)
    else:
        return None
    rate = rates.get(of)
    return rate and (rate[0] * units, rate[1])


def disk_mb(study: Config, n_cases: int) -> dict[str, float]:
    """Disk that the results take, by what takes it."""
    megavoxels = case_voxels(study.cohort) / 1e6
    trained = [(segmenter, arm, size) for segmenter in study.segmenters
               for arm in study.arms_of(segmenter) for size in study.sizes_of(segmenter)]  # fmt: skip
    volumes = sum(study.sets[name].volumes for name, _, _ in study.drawn_sets)
    split, folds = study.cohort.split, len(folds_of(study.cohort.split))
    n_scored = n_cases * (split.validation * folds + (split.test or 1.0))  # over all folds
    phantom = study.cohort.phantom
    slice_mb = DICOM_MB * (phantom.matrix / 512) ** 2
    return {
        "phantom": (phantom.patients + phantom.hosts) * phantom.max_slices * slice_mb
        if study.cohort.reader.simulates
        else 0.0,
        "cases": n_cases * (CT_BYTES + (3 + len(study.cohort.labels)) * LABEL_BYTES) * megavoxels,
        "synthetic": folds * volumes * (CT_BYTES + 3 * LABEL_BYTES) * megavoxels,
        "predictions": n_scored * len(trained) * study.replicates * PREDICTION_BYTES * megavoxels,
    }


def listed_cases(folder: Path) -> int:
    """Cases that the study in ``folder`` has, as far as they are listed; 0 before."""
    table = folder / "results/cohort.tsv"
    return sum(row["status"] == "included" for row in read_table(table)) if table.exists() else 0


def check_disk(study: Config, folder: Path) -> None:
    """Raises InputError when what is still to be written does not fit. Counts folders, not bytes: it takes no time.

    Where a study may leave many cases out, as of LIDC-IDRI, it only warns until they are listed."""
    listed = listed_cases(folder)
    need = disk_mb(study, listed or study.cohort.reader.expected_cases(study.cohort))
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
        if study.cohort.reader.uses_most or listed:
            raise InputError(message)
        print(f"{message}. It may be less: how many scans can be used is not known yet", file=sys.stderr, flush=True)


def jobs_of(
    configfiles: Sequence[Path], study: Config, n_cases: int, extra: dict | None = None
) -> list[tuple[str, dict]]:
    """(rule, wildcards) of every job of the whole study with ``n_cases`` made-up cases; reads no data. ``extra``: keys
    that are laid over the ``configfiles``."""
    return [(job.rule.name, job.wildcards_dict) for job in planned_jobs(configfiles, study, n_cases, extra)]


def planned_jobs(configfiles: Sequence[Path], study: Config, n_cases: int, extra: dict | None = None) -> list:
    """Snakemake's jobs of the whole study, with their inputs; the folder that it was planned in is gone."""
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
        made_up = {fold: list(splits(study, n_cases, fold)) for fold in folds_of(study.cohort.split)}
        write_made_up_cohort(folder / "results", made_up)
        overlay = {"cohort": {"root": str(raw)}} if study.cohort.root else {}
        # Paths from another folder than this one.
        overlay |= {"audit": {"fidelity": {"weights": None}}, "sets": without_tables(study)}
        overlay = merge(extra or {}, overlay)
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
                jobs = list(workflow._workflow.dag.jobs)
        return [job for job in jobs if job.rule.name != "all"]


def without_tables(study: Config) -> dict:
    """An overlay of ``sets`` in which no source of masks reads a table of the user's."""
    return {name: {"conditions": {"table": None}} for name in study.tables}


def write_made_up_cohort(results: Path, split_of: Mapping[int | None, list[str]]) -> None:
    """The tables and the (empty) files of prepared cases: the split of each, in each fold."""
    from lungsyn.cohort import private, table

    columns = table.columns(split_of)
    cases = [f"case-{i}" for i in range(len(next(iter(split_of.values()))))]
    rows = [
        dict.fromkeys(columns, "") | {"case": case, "patient": case, "status": "included", "n_nodules": 1}
        for case in cases
    ]  # fmt: skip
    for fold, found in split_of.items():
        named, rank = columns_of([fold])
        for i, (row, split) in enumerate(zip(rows, found, strict=True)):
            row.update({named: split, rank: found[: i + 1].count("train")})
    for name in ("listing", "cohort"):
        write_table(results / f"{name}.tsv", rows, columns)
    who = dict.fromkeys(private.COLUMNS, "") | {"source": "series"}
    private.write_names(results / "private/names.tsv", [who | {"case": case, "name": case} for case in cases])
    for case in cases:
        write_left_out(results / "cases" / case, {"case": case})
        write_json(results / "cases" / case / "cost.json", {})
    write_json(results / "phantom/cost.json", {})


def splits(study: Config, n_cases: int, fold: int | None = None) -> Iterator[str]:
    """The split of each made-up case, in the config's fractions; of a fold as it is dealt."""
    fractions = study.cohort.split
    if fractions.folds:
        names = [str(i) for i in range(n_cases)]
        dealt = assign_folds([(name, "") for name in names], fractions.folds, fractions.validation, seed=0)
        yield from (dealt[name][fold] for name in names)
        return
    for i in range(n_cases):
        place = (i + 0.5) / n_cases
        yield (
            "train"
            if place < fractions.train
            else ("validation" if place < fractions.train + fractions.validation else "test")
        )


def plan(study: Config, jobs: list[tuple[str, dict]], n_cases: int, folder: Path) -> str:
    """The table that `lungsyn plan` prints; ``folder``, which need not be there yet, gets or has the results."""
    rates, count = measured(folder / "results"), Counter(rule for rule, _ in jobs)
    known = {rule: [found for name, w in jobs if name == rule and (found := job_seconds(rule, w, study, rates))]
             for rule in count}  # fmt: skip
    lines = [f"{'rule':<18}{'jobs':>7}{'hours':>9}  measured on"]
    for rule in sorted(count, key=lambda rule: (-sum(s for s, _ in known[rule]), rule)):
        hours = f"{sum(s for s, _ in known[rule]) / 3600:,.1f}" if known[rule] else ""
        ran_on = ", ".join(sorted({ran_on for _, ran_on in known[rule]}))
        some = f" ({len(known[rule])} of {count[rule]} jobs)" if 0 < len(known[rule]) < count[rule] else ""
        lines.append(f"{rule:<18}{count[rule]:>7,}{hours:>9}  {ran_on}{some}".rstrip())
    disk = disk_mb(study, n_cases)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return "\n".join([
        f"{study.study.name}: {n_cases:,} cases, {len(jobs):,} jobs", "", *lines, "",
        "Hours are of one job after the other, where a training with these settings, or a volume of this generator, "
        "was made in this folder.",
        f"disk: {sum(disk.values()) / 1000:,.1f} GB (" + ", ".join(f"{k} {v / 1000:,.1f}" for k, v in disk.items())
        + f"); free there: {shutil.disk_usage(there).free / 1e9:,.1f} GB",
    ])  # fmt: skip
