"""The rerun contract: for every key of the config, what a change makes again and, by that, what it leaves alone.

The finished study is one of empty files with Snakemake's own records of what made them, so that nothing is computed.
What a change means is asked by dry run, in this process: 0.2 s per key, where the command takes seconds.

Changes that reach the raw data, the listing or the cases are told in steps, as they happen: a dry run can only say that
a list will be made again and that everything else depends on it; then the list is made (here: touched, the same as
before; cases that are prepared again come out otherwise) and another dry run says what follows from it.

A *label* names what reruns: the rule, and its arm or its synthetic set where it has one.
"""

import base64
import json
import os
import shlex
import shutil
import time
from dataclasses import replace as replace_in
from pathlib import Path

import pytest
import yaml
from snakemake.api import SnakemakeApi
from snakemake.exceptions import WorkflowError
from snakemake.executors import touch
from snakemake.resources import Resources
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    ExecutionSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
)

from lungsyn import codedigest, recipes, registry
from lungsyn.cli import make_parser
from lungsyn.cohort import private, table
from lungsyn.errors import InputError
from lungsyn.generators import maisi
from lungsyn.settings.checking import check
from lungsyn.volume.tables import read_table, write_table
from tests.conftest import ROOT

CONFIGFILES = [ROOT / "config.yaml", ROOT / "tests/workflow/tiny.yaml"]
RAW = "results/phantom/LIDC-IDRI"
COHORT, LISTING, NAMES = "results/cohort.tsv", "results/listing.tsv", "results/private/names.tsv"
SPLITS = {"a": "train", "b": "train", "c": "train", "d": "validation", "e": "validation", "f": "test"}


# ------------------------------------------------------------------------------------------------------- the contract


VIEWER = {"viewer"}


def arms(*names: str) -> set[str]:
    """Everything of these arms: their trainings, predictions and scores, and the viewer, which shows them."""
    return {f"{rule} {name}" for rule in ("train_segmenter", "predict", "score") for name in names} | VIEWER


ALL_ARMS = arms("real", "synthetic", "real+synthetic", "real+untargeted", "real-reseeded")
TRAINED = {name for name in ALL_ARMS if name.startswith("train_segmenter")}
SCORES = {name for name in ALL_ARMS if name.startswith("score")}
TRAINED_TARGETED = {"train_segmenter real+synthetic"}  # trained again where the benchmark's predictions changed
NOTHING: set[str] = set()
REPORT = {"report"}  # it shows the config, so every key but those of compute reaches it
COMPARISON = {"compare", "plot_arms", "plot_sets"} | REPORT
SETS = ("targeted", "untargeted")


def of_sets(*rules: str, sets=SETS) -> set[str]:
    return {f"{rule} {name}" for rule in rules for name in sets}


PICTURES = {"plot_arms", "plot_sets"} | of_sets("plot_set") | REPORT
VERDICTS = of_sets("verdict") | {"plot_sets"} | REPORT
PROBED = of_sets("memorisation", "plot_set") | VIEWER
FIDELITY = of_sets("fidelity", "plot_set") | {"plot_sets"}
VOLUMES = ("synthesise", "memorisation", "verdict", "fidelity", "plot_set")
TARGETED_VOLUMES = of_sets(*VOLUMES, sets=["targeted"]) | arms("real+synthetic")
UNTARGETED_VOLUMES = of_sets(*VOLUMES, sets=["untargeted"]) | arms("synthetic", "real+untargeted")
TARGETED = {"conditions targeted"} | TARGETED_VOLUMES  # what follows the benchmark's scores
SYNTHESIS = TARGETED_VOLUMES | UNTARGETED_VOLUMES | COMPARISON
QUALITY = {"reference"} | SYNTHESIS
GENERATOR = {"train_generator", "membership"} | SYNTHESIS
SEGMENTATION = ALL_ARMS | TARGETED | COMPARISON
PREDICTION = SEGMENTATION - TRAINED | TRAINED_TARGETED
PREPARED = {"prepare", "cohort", "conditions untargeted", "reference"} | GENERATOR | SEGMENTATION
LIST = {"listing", "cohort"}  # the same list again
EVERYTHING = {"phantom", "listing"} | PREPARED
# The first replicate's draw is there: the other's sets are made, and what learns from them.
NEW_DRAWS = of_sets("conditions", "synthesise") | arms("synthetic", "real+synthetic", "real+untargeted")
REFUSED = "no other value is allowed"
REAL = {"study": {"name": "real"}}  # patients are not called a phantom
UNMIXED = {"synthetic_share": None}
BOTH_KINDS = {"real": True, "synthetic": "untargeted"} | UNMIXED  # of cases: what ways of use are about
MIXED = {"way": "paste", "share": 0.5}

OTHER_GENERATOR = {"other": yaml.safe_load(CONFIGFILES[0].read_text())["generators"]["patch_ddpm"]}
OTHER_SEGMENTER = {"other": yaml.safe_load(CONFIGFILES[0].read_text())["segmenters"]["unet"]}

# key: (another value, what reruns[, what else the config needs for that value])
CONTRACT = {
    "study.name": ("another", PICTURES | VIEWER),
    "study.seed": (1, EVERYTHING),
    "cohort.dataset": ("lidc", {"listing"} | PREPARED, {"cohort": {"root": RAW}} | REAL),
    "cohort.root": ("elsewhere", {"listing"} | PREPARED, {"cohort": {"dataset": "lidc"}} | REAL),
    "cohort.exclude": ({"nosuch": "a reason"}, LIST),
    "cohort.public_names": (True, LIST),
    "cohort.unmarked": ("host", LIST),
    "cohort.lesion_labels": ([2], {"listing"} | PREPARED),
    "cohort.labels": (["airway"], {"listing"} | PREPARED),
    "cohort.max_slice_thickness_mm": (2.5, LIST),
    "cohort.phantom.patients": (7, EVERYTHING),
    "cohort.phantom.hosts": (1, EVERYTHING),
    "cohort.phantom.matrix": (256, EVERYTHING),
    "cohort.phantom.slice_thickness_mm": ([1.0, 3.0], EVERYTHING),
    "cohort.phantom.max_slices": (140, EVERYTHING),
    "cohort.phantom.noise_hu": (10, EVERYTHING),
    "cohort.nodules.consensus_level": (0.75, EVERYTHING),  # the phantom chooses its scans by their nodules
    "cohort.nodules.min_readers": (2, EVERYTHING),
    "cohort.nodules.min_diameter_mm": (9, EVERYTHING),
    "cohort.split.train": (0.4, LIST, {"cohort": {"split": {"test": 0.3}}}),
    "cohort.split.validation": (0.2, LIST, {"cohort": {"split": {"test": 0.3}}}),
    "cohort.split.test": (0.3, LIST, {"cohort": {"split": {"train": 0.4}}}),
    "cohort.preprocess.spacing_mm": (4, PREPARED),
    "cohort.preprocess.margin_mm": (6, PREPARED),
    "cohort.preprocess.field_of_view": ("part", PREPARED),
    "benchmark.arm": ("real-reseeded", TARGETED | COMPARISON),
    "benchmark.segmenter": ("other", SEGMENTATION, {"segmenters": OTHER_SEGMENTER}),
    "benchmark.worst_cases": (2, TARGETED | COMPARISON),
    "generators.patch_ddpm.kind": ("gan", REFUSED),
    "generators.patch_ddpm.labels": (["nodules", "lungs", "body", "airway"], GENERATOR),
    "generators.patch_ddpm.window_hu": ([-1000, 300], GENERATOR),
    "generators.patch_ddpm.patch_voxels": (24, GENERATOR | QUALITY),
    "generators.patch_ddpm.context_factor": (0, GENERATOR | QUALITY),
    "generators.patch_ddpm.position": (False, GENERATOR),
    "generators.patch_ddpm.channels": ([16, 16], GENERATOR),
    "generators.patch_ddpm.blocks": (2, GENERATOR),
    "generators.patch_ddpm.activation_checkpointing": (True, GENERATOR),
    "generators.patch_ddpm.source_conditions": (True, GENERATOR),
    "generators.patch_ddpm.objective": ("flow", GENERATOR),
    "generators.patch_ddpm.schedule": ("linear", GENERATOR),
    "generators.patch_ddpm.timesteps": (500, GENERATOR),
    "generators.patch_ddpm.timestep_density": ("logit_normal", GENERATOR),
    "generators.patch_ddpm.prediction": ("epsilon", GENERATOR),
    "generators.patch_ddpm.nodule_weight": (2, GENERATOR),
    "generators.patch_ddpm.nodule_patches": (0.4, GENERATOR),
    "generators.patch_ddpm.nodule_dropout": (0.2, GENERATOR),
    "generators.patch_ddpm.flips": (True, GENERATOR),
    "generators.patch_ddpm.images": (44, GENERATOR),
    "generators.patch_ddpm.batch_patches": (4, GENERATOR),
    "generators.patch_ddpm.learning_rate": (0.002, GENERATOR),
    "generators.patch_ddpm.warmup_images": (8, GENERATOR),
    "generators.patch_ddpm.ema_images": (20, GENERATOR),
    "generators.patch_ddpm.gradient_norm": (2.0, GENERATOR),
    "generators.patch_ddpm.held_out": (0.0, GENERATOR),
    "generators.patch_ddpm.validation_patches": (8, GENERATOR),
    "generators.patch_ddpm.validation_every_images": (10, GENERATOR),
    "generators.patch_ddpm.early_stop_checks": (3, GENERATOR),
    "synthesis.sampler": ("ddpm", SYNTHESIS),
    "synthesis.steps": (5, SYNTHESIS),
    "synthesis.eta": (0.5, SYNTHESIS),
    "synthesis.mode": ("fused", SYNTHESIS),
    "synthesis.overlap": (0.5, QUALITY),
    "synthesis.fused_steps": (2, SYNTHESIS),
    "synthesis.guidance_scale": (2.0, SYNTHESIS),
    "synthesis.volumes_per_job": (1, SYNTHESIS),
    "quality.tries": (2, QUALITY),
    "quality.false_rejections": (0.1, QUALITY),
    "sets.untargeted.generator": (
        "other", {"train_generator", "membership", "reference"} | UNTARGETED_VOLUMES | COMPARISON,
        {"generators": OTHER_GENERATOR},
    ),
    "sets.untargeted.conditions.kind": ("targeted", {"conditions untargeted"} | UNTARGETED_VOLUMES | COMPARISON),
    "sets.untargeted.volumes": (4, {"conditions untargeted"} | UNTARGETED_VOLUMES | COMPARISON),
    "sets.untargeted.source": (
        {"slice_mm": 1.0, "noise_hu": 20}, GENERATOR, {"generators": {"patch_ddpm": {"source_conditions": True}}},
    ),
    "sets.targeted.source": (
        {"slice_mm": 1.0, "noise_hu": 20}, GENERATOR, {"generators": {"patch_ddpm": {"source_conditions": True}}},
    ),
    "sets.targeted.generator": (
        "other", {"train_generator", "membership", "reference"} | TARGETED_VOLUMES | COMPARISON,
        {"generators": OTHER_GENERATOR},
    ),
    "sets.targeted.conditions.kind": ("untargeted", TARGETED | COMPARISON),
    "sets.targeted.volumes": (3, TARGETED | COMPARISON),
    "segmenters.unet.kind": ("transunet", REFUSED),
    "segmenters.unet.network": ("dynunet", SEGMENTATION),
    "segmenters.unet.channels": ([4, 8, 16], SEGMENTATION),
    "segmenters.unet.window_hu": ([-1000, 300], SEGMENTATION),
    "segmenters.unet.patch_voxels": (24, SEGMENTATION),
    "segmenters.unet.nodule_patches": (0.5, SEGMENTATION),
    "segmenters.unet.steps": (7, SEGMENTATION),
    "segmenters.unet.batch_patches": (3, SEGMENTATION),
    "segmenters.unet.learning_rate": (0.001, SEGMENTATION),
    "segmenters.unet.overlap": (0.5, PREDICTION),
    "segmenters.unet.mirrored": (True, PREDICTION),
    "segmenters.unet.keep_lungs": (False, PREDICTION),
    "segmenters.unet.arms": (["real", "real+synthetic", "synthetic", "real-reseeded"], COMPARISON | VIEWER),
    "segmenters.unet.training_percent": ([100], NOTHING | REPORT),
    "training_percent": (
        [34, 100],
        {"train_generator", "membership", "reference", "conditions untargeted"}
        | UNTARGETED_VOLUMES | SEGMENTATION | PICTURES,
    ),
    "replicates": (3, SEGMENTATION),
    "freeze_choice": (True, {"choose"} | SCORES | COMPARISON | VIEWER),
    "replicates_draw": ("set", NEW_DRAWS | COMPARISON),
    "arms.real.real": (False, arms("real") | TARGETED | COMPARISON, {"arms": {"real": {"synthetic": "untargeted"}}}),
    "arms.real.synthetic": ("untargeted", arms("real") | TARGETED | COMPARISON),
    "arms.real.reseeded": (True, arms("real") | TARGETED | COMPARISON),
    "arms.synthetic.real": (True, arms("synthetic") | COMPARISON),
    "arms.synthetic.synthetic": ("targeted", arms("synthetic") | COMPARISON),
    "arms.real.synthetic_share": (
        0.3, arms("real") | TARGETED | COMPARISON, {"arms": {"real": {"synthetic": "untargeted"}}},
    ),
    "arms.synthetic.synthetic_share": (0.3, arms("synthetic") | COMPARISON, {"arms": {"synthetic": {"real": True}}}),
    "arms.real-reseeded.synthetic_share": (
        0.3, arms("real-reseeded") | COMPARISON, {"arms": {"real-reseeded": {"synthetic": "untargeted"}}},
    ),
    "arms.real+synthetic.synthetic_share": (0.3, arms("real+synthetic") | COMPARISON),
    "arms.real+untargeted.synthetic_share": (0.3, arms("real+untargeted") | COMPARISON),
    "arms.synthetic.reseeded": (True, arms("synthetic") | COMPARISON),
    "arms.real+synthetic.real": (
        False, arms("real+synthetic") | COMPARISON, {"arms": {"real+synthetic": UNMIXED}},
    ),
    "arms.real+synthetic.synthetic": ("untargeted", arms("real+synthetic") | COMPARISON),
    "arms.real+synthetic.reseeded": (True, arms("real+synthetic") | COMPARISON),
    "arms.real+untargeted.real": (
        False, arms("real+untargeted") | COMPARISON, {"arms": {"real+untargeted": UNMIXED}},
    ),
    "arms.real+untargeted.synthetic": ("targeted", arms("real+untargeted") | COMPARISON),
    "arms.real+untargeted.reseeded": (True, arms("real+untargeted") | COMPARISON),
    "arms.real-reseeded.real": (
        False, arms("real-reseeded") | COMPARISON, {"arms": {"real-reseeded": {"synthetic": "untargeted"}}},
    ),
    "arms.real-reseeded.synthetic": ("untargeted", arms("real-reseeded") | COMPARISON),
    "arms.real-reseeded.reseeded": (False, arms("real-reseeded") | COMPARISON),
    "evaluation.bootstrap": (300, COMPARISON),
    "evaluation.confidence": (0.9, COMPARISON),
    "audit.patch_mm": (40, PROBED | VERDICTS),
    "audit.max_shift_voxels": (0, PROBED | VERDICTS),
    "audit.window_hu": ([-1000, 300], PROBED | VERDICTS),
    "audit.alpha": (0.05, VERDICTS),
    "audit.largest_fraction_beyond": (0.1, VERDICTS),
    "audit.largest_membership_auc": (0.7, VERDICTS),
    "audit.fidelity.slices_per_case": (4, FIDELITY),
    "audit.fidelity.weights": (f"{RAW}/a/series/0.dcm", FIDELITY),  # any file that is there
    "figures.dpi": (80, PICTURES),
    "figures.window_hu": ([-1000, 400], PICTURES | VIEWER),
    "figures.contact_cases": (1, PICTURES),
    "figures.case_arms": (["real", "synthetic"], PICTURES | VIEWER),
    "figures.viewer_cases": (1, VIEWER | REPORT),
    "compute.device": ("cpu", NOTHING),
    "compute.precision": ("bfloat16", NOTHING),
    "compute.gpus": (2, NOTHING),
    "compute.generator_threads": (2, NOTHING),
    "compute.segmenter_threads": (2, NOTHING),
    "compute.loader_processes": (1, NOTHING),
    "compute.patches_per_batch": (8, NOTHING),
    "compute.checkpoint_seconds": (5, NOTHING),
    "compute.compile": (True, NOTHING),
}  # fmt: skip
FOUND = {"find untargeted"} | COMPARISON
for name in ("synthetic", "real+synthetic", "real+untargeted", "real-reseeded"):
    both = {"arms": {name: BOTH_KINDS}}
    CONTRACT |= {
        f"arms.{name}.pretrain": (0.5, arms(name) | COMPARISON, both),
        f"arms.{name}.mixing": (MIXED, arms(name) | COMPARISON, both),
        f"arms.{name}.match_noise": (True, arms(name) | COMPARISON, both),
        f"arms.{name}.found": ({"least_dice": 0.5}, arms(name) | FOUND, both),
    }
CONTRACT |= {
    "arms.real.pretrain": (0.5, arms("real") | TARGETED | COMPARISON, {"arms": {"real": BOTH_KINDS}}),
    "arms.real.mixing": (MIXED, arms("real") | TARGETED | COMPARISON),
    "arms.real.match_noise": (True, arms("real") | TARGETED | COMPARISON, {"arms": {"real": BOTH_KINDS}}),
    "arms.real.found": ({"least_dice": 0.5}, REFUSED, {"arms": {"real": BOTH_KINDS}}),  # it is the benchmark
}


# -------------------------------------------------------------------------------------------------- asking Snakemake


def label(job) -> str:
    """What a job is called in the contract."""
    part = job.wildcards_dict.get("arm") or job.wildcards_dict.get("set")
    return f"{job.rule.name} {part}" if part else job.rule.name


def snakemake(folder: Path, overlay: dict, executor: str = "dryrun", dag: DAGSettings | None = None, **resources):
    """The DAG of a study under the tiny config with ``overlay``, after ``executor`` (dryrun or touch) went over it."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(**{"cores": 2} | resources),
            config_settings=ConfigSettings(config=overlay, configfiles=CONFIGFILES),
            snakefile=ROOT / "Snakefile",
            workdir=folder,
        )
        workflow.dag(dag).execute_workflow(executor=executor, execution_settings=ExecutionSettings(lock=False))
        return workflow._workflow.dag


def to_run(folder: Path, overlay: dict | None = None, **resources) -> list:
    """The jobs that a run would do."""
    dag = snakemake(folder, overlay or {}, **resources)
    return [job for job in dag.needrun_jobs(exclude_finished=False) if job.rule.name != "all"]


def reruns(folder: Path, overlay: dict, copy_to: Path) -> set[str]:
    """Labels of what a change reruns in the end: what is made before the cases are known, and what follows then."""
    planned = {label(job) for job in to_run(folder, overlay)}
    if not planned & {"phantom", "listing", "prepare", "cohort"}:
        return planned
    shutil.copytree(folder, copy_to, symlinks=True)
    first = planned & {"phantom", "listing"}
    if "phantom" in first:
        touch_raw_files(copy_to)
    if first:
        snakemake(copy_to, overlay, executor="touch", dag=DAGSettings(targets={"results/listing.tsv"}))
    return first | {label(job) for job in follow(copy_to, overlay)}


def follow(folder: Path, overlay: dict | None = None) -> list:
    """The jobs that a run does once the listing is made: cases that are prepared again come out otherwise."""
    target = DAGSettings(targets={COHORT})
    jobs = snakemake(folder, overlay or {}, dag=target).needrun_jobs(exclude_finished=False)
    first = [job for job in jobs if job.rule.name in ("prepare", "cohort")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for output in (output for job in first for output in job.output):
            write_empty(output)
            if Path(output).name == "case.json":
                Path(output).write_text(f"prepared again: {output}, {time.time()}\n")
    if first:  # forced, since Snakemake asks why a file should be touched that is there
        again = DAGSettings(targets={COHORT}, forcerun={job.rule.name for job in first})
        snakemake(folder, overlay or {}, executor="touch", dag=again)
    return first + to_run(folder, overlay)


def touch_raw_files(folder: Path, case: str = "*") -> None:
    later = time.time() + 10
    for path in (folder / RAW).glob(f"{case}/**/*"):
        os.utime(path, (later, later))


def write_empty(output) -> None:
    """A file or folder like none else, since Snakemake looks at the content of small files."""
    path = Path(output)
    if path.exists():
        return
    if output.is_directory:
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"made for the test: {output}\n")


def finish(folder: Path, overlay: dict) -> None:
    """Write what is missing of the study with this overlay, and have Snakemake note that it made all of it."""
    outputs = [output for job in snakemake(folder, overlay).jobs for output in job.output]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for output in outputs:
            write_empty(output)
    snakemake(folder, overlay, executor="touch", dag=DAGSettings(forceall=True))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A finished tiny study of six cases, with empty files for results."""
    folder = tmp_path_factory.mktemp("finished")
    slept, touch.Executor.SLEEPING_TIME = touch.Executor.SLEEPING_TIME, 0.0
    for case in SPLITS:
        (folder / RAW / case / "series").mkdir(parents=True)
        for i in range(2):
            (folder / RAW / case / f"series/{i}.dcm").write_text(f"slice {i} of {case}")
    (folder / "elsewhere").symlink_to(RAW)
    (folder / "results/phantom/cost.json").write_text("{}")
    write_cohort(folder, SPLITS)
    snakemake(folder, {}, executor="touch", dag=DAGSettings(targets={LISTING}))
    follow(folder)
    finish(folder, {})
    yield folder
    touch.Executor.SLEEPING_TIME = slept


def write_cohort(folder: Path, split_of: dict[str, str], **other) -> None:
    """The tables of cases; ``other`` columns have one value for all."""
    train = [case for case, split in split_of.items() if split == "train"]
    rows = [
        dict.fromkeys(table.COLUMNS, "")
        | {"case": case, "patient": case, "split": split, "status": "included", "n_nodules": 1,
           "train_rank": train.index(case) + 1 if case in train else ""}
        | other
        for case, split in split_of.items()
    ]  # fmt: skip
    for name in (LISTING, COHORT):
        write_table(folder / name, rows, table.COLUMNS)
    who = dict.fromkeys(private.COLUMNS, "")
    write_table(
        folder / NAMES, [who | {"case": case, "source": f"{case}/series"} for case in split_of], private.COLUMNS
    )


@pytest.fixture
def study(finished, tmp_path) -> Path:
    """A copy of the finished study, to be changed."""
    return shutil.copytree(finished, tmp_path / "study", symlinks=True)


# ---------------------------------------------------------------------------------------------------------- the keys


def merged(base, overlay):
    """What `--configfile` and `--config` do: dicts are merged, everything else is replaced."""
    if not isinstance(overlay, dict) or not isinstance(base, dict):
        return overlay
    return base | {key: merged(base.get(key), value) for key, value in overlay.items()}


def tiny() -> dict:
    shipped, overlay = (yaml.safe_load(path.read_text()) for path in CONFIGFILES)
    return merged(shipped, overlay)


def leaves(node, path: tuple = ()) -> list[str]:
    if not isinstance(node, dict) or not node:
        return [".".join(path)]
    return [leaf for key, value in node.items() for leaf in leaves(value, (*path, key))]


def at(key: str, value) -> dict:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def test_every_key_has_an_expectation():
    keys = set(leaves(check(tiny()).model_dump(mode="json")))
    assert keys == set(CONTRACT), "say in CONTRACT what a change of the key reruns"


def test_a_finished_study_has_nothing_to_do(finished):
    assert to_run(finished) == []


@pytest.mark.parametrize("key", CONTRACT)
def test_a_changed_key_reruns_what_depends_on_it_and_nothing_else(key, finished, tmp_path):
    value, expected, *rest = CONTRACT[key]
    overlay = merged(at(key, value), rest[0] if rest else {})
    if expected == REFUSED:
        with pytest.raises(InputError, match=key):
            check(merged(tiny(), overlay))
        return
    assert check(merged(tiny(), overlay)) != check(tiny())
    found = reruns(finished, overlay, tmp_path / "copy")
    assert found == expected | (REPORT if expected else NOTHING)


def test_folds_list_the_same_cases_anew_and_prepare_none(study):
    """Then every fold is made; going back to one split finds what that had."""
    folds = {"cohort": {"split": {"folds": 3, "validation": 0.33}}}
    assert {label(job) for job in to_run(study, folds)} & {"phantom", "listing", "prepare"} == {"listing"}
    assert check(merged(tiny(), folds)).cohort.split.model_dump() == {"folds": 3, "validation": 0.33}
    other = merged(folds, {"cohort": {"split": {"train": 0.6, "test": 0.1}}})  # says nothing beside folds
    assert check(merged(tiny(), other)) == check(merged(tiny(), folds))


def test_the_contract_s_promises():
    """The table of the design in one place: what each part of the config never touches."""
    trainings = {"train_generator"} | {name for name in ALL_ARMS if name.startswith("train_segmenter")}
    sampling = {"synthesise targeted", "synthesise untargeted"}
    never = {
        "figures": EVERYTHING - PICTURES,
        "evaluation": trainings | sampling | {"prepare", "cohort", "phantom"},
        "audit": ALL_ARMS | trainings | sampling | {"prepare", "cohort", "phantom", "membership"},
        "segmenters": {"train_generator", "conditions untargeted", "synthesise untargeted", "prepare", "cohort"},
        "quality": arms("real", "real-reseeded") | {"train_generator", "prepare"},
        "synthesis": arms("real", "real-reseeded") | {"train_generator", "prepare", "conditions targeted"},
        "generators": arms("real", "real-reseeded") | {"prepare", "cohort", "conditions targeted"},
        "cohort.preprocess": {"phantom", "listing"},
        "cohort.split": {"phantom", "prepare"},
        "cohort.exclude": {"phantom", "prepare"},
        "compute": EVERYTHING,
    }
    for key, (_, expected, *_) in CONTRACT.items():
        for section, forbidden in never.items():
            if key.startswith(f"{section}.") and expected != REFUSED:
                assert not expected & (forbidden - VIEWER), key


# ------------------------------------------------------------------------------------------------------------ the code

# the verb whose recipe number is raised: what reruns
RECIPES = {
    ("cohort", "phantom"): EVERYTHING,
    ("cohort", "index"): LIST,  # and what follows, if the list comes out another
    ("cohort", "prepare"): PREPARED,
    ("cohort", "table"): {"cohort"},
    ("cohort", "nodules"): NOTHING,  # in no study, unless it is asked for
    ("generation", "train"): GENERATOR,
    ("generation", "conditions"): {"conditions untargeted"} | UNTARGETED_VOLUMES | TARGETED | COMPARISON,
    ("generation", "reference"): QUALITY,
    ("generation", "synthesise"): SYNTHESIS,
    ("segmentation", "train"): SEGMENTATION,
    ("segmentation", "predict"): PREDICTION,
    ("segmentation", "find"): NOTHING,  # no arm of the study asks
    ("evaluation", "score"): SCORES | COMPARISON | VIEWER,
    ("evaluation", "choose"): NOTHING,  # unless freeze_choice asks for it
    ("evaluation", "compare"): COMPARISON,
    ("evaluation", "plot-arms"): {"plot_arms"} | REPORT,
    ("evaluation", "plot-set"): of_sets("plot_set") | REPORT,
    ("evaluation", "plot-sets"): {"plot_sets"} | REPORT,
    ("evaluation", "report"): REPORT,
    ("viewer", "write"): VIEWER | REPORT,
    ("audit", "memorisation"): PROBED | VERDICTS,
    ("audit", "membership"): {"membership"} | VERDICTS,
    ("audit", "verdict"): VERDICTS,
    ("audit", "fidelity"): FIDELITY | REPORT,
}


def raise_recipe(monkeypatch, verb: tuple[str, str]) -> None:
    old = recipes.OF_VERBS[verb]
    monkeypatch.setitem(recipes.OF_VERBS, verb, replace_in(old, number=old.number + 1))


# the family whose recipe number is raised: what reruns; what is in no set of the study has nothing to rerun
FAMILIES = {
    ("generators", "patch_ddpm"): GENERATOR,
    ("generators", "patch_gan"): NOTHING,
    ("generators", "ha_gan"): NOTHING,
    ("generators", "joint_ddpm"): NOTHING,
    ("generators", "style_gan"): NOTHING,
    ("segmenters", "monai"): SEGMENTATION,
    ("masks", "untargeted"): {"conditions untargeted"} | UNTARGETED_VOLUMES | COMPARISON,
    ("masks", "targeted"): TARGETED | COMPARISON,
    ("masks", "inpainted"): NOTHING,
    ("masks", "blank"): NOTHING,
    ("masks", "twin"): NOTHING,
    ("masks", "made"): NOTHING,
    ("readers", "phantom"): EVERYTHING,
    ("readers", "nifti"): NOTHING,
}


@pytest.mark.parametrize(("seam", "kind"), FAMILIES)
def test_a_raised_recipe_of_a_family_reruns_its_jobs_and_what_follows(seam, kind, finished, tmp_path, monkeypatch):
    own = type(registry.family(seam, kind))
    monkeypatch.setattr(own, "recipe", own.recipe + 1)
    assert reruns(finished, {}, tmp_path / "copy") == FAMILIES[seam, kind]


def test_every_recipe_has_an_expectation():
    assert set(RECIPES) == set(recipes.OF_VERBS), "say in RECIPES what reruns when the verb's recipe is raised"


@pytest.mark.parametrize("verb", RECIPES)
def test_a_raised_recipe_reruns_its_rule_and_what_follows(verb, finished, tmp_path, monkeypatch):
    raise_recipe(monkeypatch, verb)
    assert reruns(finished, {}, tmp_path / "copy") == RECIPES[verb]


def test_an_edit_alone_reruns_nothing(finished, monkeypatch):
    """No digest of code is asked for: any edit is one, a reworded message too."""
    monkeypatch.setattr(codedigest, "reached", None)
    codedigest.of.cache_clear()
    assert to_run(finished) == []


def test_results_can_be_accepted_although_a_recipe_was_raised(study, monkeypatch):
    """`snakemake --touch` writes the new recipe into Snakemake's records and leaves every file's content alone."""
    raise_recipe(monkeypatch, ("generation", "train"))
    model = study / "results/generator/patch_ddpm/100/model.safetensors"
    before = model.read_text()
    assert "train_generator" in {label(job) for job in to_run(study)}
    snakemake(study, {}, executor="touch")
    assert to_run(study) == []
    assert model.read_text() == before
    raise_recipe(monkeypatch, ("generation", "train"))
    assert "train_generator" in {label(job) for job in to_run(study)}


def test_a_study_of_a_version_without_recipes_is_refused(study):
    """Else all that it trained would be deleted and made again."""
    for name in (LISTING, COHORT):
        path = study / ".snakemake/metadata" / base64.urlsafe_b64encode(name.encode()).decode()
        record = json.loads(path.read_text())
        record["params"] = ["'0123456789ab'", "0"]
        path.write_text(json.dumps(record))
    with pytest.raises(WorkflowError, match="older version of lungsyn, which would all be made again: move it away"):
        snakemake(study, {})


# ------------------------------------------------------------------------------------------------------- other changes


def test_threads_cores_and_resources_rerun_nothing(finished):
    assert to_run(finished, cores=8, overwrite_threads={"train_generator": 4}) == []
    assert to_run(finished, cores=1, overwrite_resources={"train_generator": {"gpu": 1, "mem_mb": 9000}}) == []


def test_one_number_puts_a_generator_on_several_gpus(finished):
    """The command and what it asks for; where a profile has a single lock for all GPUs the job takes that."""

    def training(gpus: int, **limits):
        overlay = {"generators": {"patch_ddpm": {"images": 44}}, "compute": {"gpus": gpus}}
        return next(job for job in to_run(finished, overlay, **limits) if job.rule.name == "train_generator")

    four = training(4)
    told = "exec torchrun --standalone --nproc-per-node 4 --no-python lungsyn generation train "
    assert four.shellcmd.startswith(told)
    assert four.resources["gpu"] == 4
    assert training(4, resources={"gpu": 1}).resources["gpu"] == 1
    assert training(1).shellcmd.startswith("exec lungsyn generation train ")


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("patch_gan", "gan", {"critic_channels": [32, 48]}),
        ("latent_ddpm", "latent", {"autoencoder": {"latent_channels": 12}}),
        ("ha_gan", "hagan", {"reconstruction_weight": 4}),
    ],
)
def test_another_generator_beside_the_diffusion_model_makes_only_its_own_again(study, kind, name, change):
    """Added to a finished study; then one of its own numbers changed."""
    beside = yaml.safe_load((ROOT / f"workflow/experiments/cubes_{name}.yaml").read_text())
    (new,) = beside["sets"]
    made = of_sets(*VOLUMES, sets=[new]) | arms(f"synthetic-{name}") | {"train_generator", "membership"} | COMPARISON
    jobs = to_run(study, beside)
    assert {label(job) for job in jobs} == made | {"reference", f"conditions {new}"}
    generators = {job.wildcards_dict["generator"] for job in jobs if job.rule.name == "train_generator"}
    assert generators == {kind}

    finish(study, beside)
    assert to_run(study, beside) == []
    changed = merged(beside, {"generators": {kind: change}})
    assert {label(job) for job in to_run(study, changed)} == made


def test_other_released_weights_make_again_what_was_made_with_them(study, tmp_path):
    """A missing file ends the run before any job, with its name."""
    folder = tmp_path / "maisi"
    own = {"kind": "maisi", "folder": str(folder)}
    beside = {
        "generators": {"released": own},
        "sets": {"released": {"generator": "released", "conditions": "untargeted", "volumes": 2}},
        "arms": {"released": {"real": False, "synthetic": "released"}},
    }
    with pytest.raises(WorkflowError, match=r"lacks configs/config_network_rflow\.json, models/autoencoder_v1\.pt, "):
        to_run(study, beside)
    for path in ("configs/config_network_rflow.json", *(name.format(version="rflow-ct") for name in maisi.WEIGHTS)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("before")
    finish(study, beside)
    assert to_run(study, beside) == []
    made = of_sets(*VOLUMES, sets=["released"]) | arms("released") | {"train_generator"} | COMPARISON
    further = merged(beside, {"generators": {"released": {"images": 20}}})
    assert {label(job) for job in to_run(study, further)} == made
    (folder / "models/controlnet_3d_rflow-ct.pt").write_text("after")
    assert {label(job) for job in to_run(study, beside)} == made


@pytest.mark.parametrize(
    "change",
    [
        {"body": "parametric"}, {"patients": 6}, {"nodules": [1, 2]}, {"diameter_mm": [5, 9]}, {"wall_mm": [2, 5]},
        {"lungs_l": [3, 5]}, {"table": "wanted.tsv"}, "another line",
    ],
    ids=str,
)  # fmt: skip
def test_what_masks_of_nobody_are_to_be_makes_their_set_again(study, change):
    """A key of theirs, or a line in the user's table."""
    table = study / "wanted.tsv"
    table.write_text("diameters_mm\n5\n")
    conditions = {"kind": "made"} | ({"table": "wanted.tsv"} if isinstance(change, str) else {})
    beside = {
        "sets": {"made": {"generator": "patch_ddpm", "conditions": conditions, "volumes": 2}},
        "arms": {"synthetic-made": {"real": False, "synthetic": "made"}},
    }
    finish(study, beside)
    assert to_run(study, beside) == []
    if isinstance(change, str):
        table.write_text("diameters_mm\n5\n6\n")
    else:
        beside["sets"]["made"]["conditions"] = conditions | change
    made = {"conditions made"} | of_sets(*VOLUMES, sets=["made"]) | arms("synthetic-made") | COMPARISON
    assert {label(job) for job in to_run(study, beside)} == made


def test_the_report_declares_what_it_counts_and_nothing_that_is_gone_from_the_config(study):
    """The results of a generator that was tried and given up lie there still."""
    gan = yaml.safe_load((ROOT / "workflow/experiments/cubes_gan.yaml").read_text())
    finish(study, gan)
    tried = "results/generator/patch_gan/100/cost.json"

    def counted(overlay: dict) -> list[str]:
        (report,) = (job for job in snakemake(study, overlay).jobs if job.rule.name == "report")
        paths = [path for path in report.input if path.endswith("cost.json")]
        assert all(path in report.shellcmd for path in paths)
        return paths

    assert (study / tried).exists() and tried in counted(gan)
    without = counted({})
    assert "results/generator/patch_ddpm/100/cost.json" in without
    assert not [path for path in without if "gan" in path]


PASTED = {
    "generators": {"pasting": {"kind": "copy_paste"}},
    "sets": {"pasted": {"generator": "pasting", "conditions": "inpainted", "volumes": 2}},
    "arms": {"real+pasted": {"real": True, "synthetic": "pasted", "synthetic_share": 0.5}},
}


@pytest.mark.parametrize("where", ["here", "on a cluster"])
def test_what_is_pasted_takes_no_gpu(where, finished):
    """Neither the one of this machine nor a place in the GPU partition."""
    profile = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())["set-resources"]
    of_profile = {
        rule: Resources.parse([f"{key}={value}" for key, value in asked.items()], allow_expressions=True)
        for rule, asked in profile.items()
    }
    overlay = merged(PASTED, {"compute": {"device": "cuda"}, "synthesis": {"steps": 9}})
    jobs = to_run(finished, overlay, overwrite_resources=of_profile if where == "on a cluster" else {})
    asked = {job.wildcards_dict["generator"]: job.resources for job in jobs if job.rule.name == "synthesise"}
    assert {name: resources["gpu"] for name, resources in asked.items()} == {"patch_ddpm": 1, "pasting": 0}
    if where == "on a cluster":
        partitions = {name: resources["slurm_partition"] for name, resources in asked.items()}
        assert partitions == {"patch_ddpm": "gpu", "pasting": "cpu"}


def test_what_the_benchmark_finds_is_asked_once_and_a_threshold_only_trains_again(study):
    """By arms of one set. What was found follows the set and the benchmark's segmenter, and nothing else."""
    arm = {"real": True, "synthetic": "untargeted", "found": {"least_dice": 0.3}}
    overlay = {"arms": {"found": arm, "hard": arm | {"found": {"least_dice": 0.3, "hard_times": 3}}}}
    first = [label(job) for job in to_run(study, overlay)]
    assert (
        first.count("find untargeted") == 1 and set(first) == {"find untargeted"} | arms("found", "hard") | COMPARISON
    )
    finish(study, overlay)
    assert to_run(study, overlay) == []

    def again(change: dict) -> set[str]:
        return {label(job) for job in to_run(study, merged(overlay, change))}

    assert again({"arms": {"hard": {"found": {"hard_times": 4}}}}) == arms("hard") | COMPARISON
    assert again({"arms": {"found": {"found": {"least_dice": 0.4}}}}) == arms("found") | COMPARISON
    assert "find untargeted" in again({"segmenters": {"unet": {"keep_lungs": False}}})
    assert "find untargeted" in again({"segmenters": {"unet": {"steps": 7}}})
    assert "find untargeted" in again({"sets": {"untargeted": {"volumes": 4}}})
    assert "find untargeted" not in again({"sets": {"targeted": {"volumes": 4}}})


def cases_of(jobs) -> set[str]:
    return {job.wildcards_dict["case"] for job in jobs if job.rule.name == "prepare"}


@pytest.mark.parametrize(
    ("case", "spared"),
    [
        ("a", NOTHING),  # a train case reaches everything
        ("d", {"conditions untargeted", "synthesise untargeted", "train_generator"}),
        ("f", {f"train_segmenter {arm}" for arm in ("real", "synthetic", "real+untargeted")} | {"train_generator"}),
    ],
)
def test_a_changed_raw_file_reruns_that_case_and_what_depends_on_it(study, case, spared):
    touch_raw_files(study, case)
    jobs = follow(study)
    assert cases_of(jobs) == {case}
    assert not {label(job) for job in jobs} & spared
    assert {"predict real", "score real", "compare", "report"} <= {label(job) for job in jobs}


def test_one_changed_slice_is_noticed(study):
    """A file that is overwritten in place leaves its folder's time as it was."""
    path = study / RAW / "b/series/1.dcm"
    folder = path.parent.stat()
    path.write_text("another slice")
    os.utime(path, (time.time() + 10, time.time() + 10))
    os.utime(path.parent, ns=(folder.st_atime_ns, folder.st_mtime_ns))
    assert cases_of(follow(study)) == {"b"}


def test_a_listing_that_is_deleted_is_made_again(study):
    """By hand, or by a run that was killed while it wrote it; the cases and their table are still there."""
    (study / LISTING).unlink()
    assert {"listing", "cohort"} <= {label(job) for job in to_run(study)}


def test_a_slice_in_a_folder_below_is_noticed(study):
    """A series may lie in several folders; its source is the one that holds them."""
    (study / RAW / "b/series/part").mkdir()
    (study / RAW / "b/series/part/2.dcm").write_text("one more slice")
    assert cases_of(follow(study)) == {"b"}


def test_a_changed_case_reruns_its_dependants_only(study):
    """case.json stands for the case: it is written last and holds a digest of the voxels."""
    path = study / "results/cases/f/case.json"
    path.write_text("another content")
    os.utime(path, (time.time() + 10, time.time() + 10))
    found = {label(job) for job in to_run(study)}
    assert {"predict real", "score real", "plot_arms", "compare", "report"} <= found
    assert not found & {"prepare", "train_generator", "train_segmenter real", "synthesise untargeted"}


def test_a_case_that_came_out_the_same_reruns_nothing(study):
    path = study / "results/cases/a/case.json"
    os.utime(path, (time.time() + 10, time.time() + 10))
    assert to_run(study) == []


def test_a_moved_patient_is_not_prepared_again(study):
    """Another split: the trainings and the scores follow the list, the cases stay."""
    write_cohort(study, SPLITS | {"c": "test"})
    later = time.time() + 10
    for name in (LISTING, COHORT):
        os.utime(study / name, (later, later))
    found = {label(job) for job in follow(study)}
    assert {"train_generator", "train_segmenter real", "score real", "conditions untargeted"} <= found
    assert not found & {"phantom", "listing", "prepare"}


def test_an_excluded_case_leaves_the_others_as_they_are(study):
    write_cohort(study, {case: split for case, split in SPLITS.items() if case != "b"})
    jobs = follow(study)
    assert cases_of(jobs) == set()
    assert "train_generator" in {label(job) for job in jobs}


def test_a_new_case_is_the_only_one_that_is_prepared(study):
    shutil.copytree(study / RAW / "a", study / RAW / "g")
    write_cohort(study, SPLITS | {"g": "train"})
    assert cases_of(follow(study)) == {"g"}


def test_a_host_reaches_what_a_generator_learns_and_is_measured_by_and_no_segmenter(study):
    """At every size of its own: of two hosts half are one."""
    for host in ("g", "h"):
        shutil.copytree(study / RAW / "a", study / RAW / host)
    write_cohort(study, SPLITS | {"g": "train", "h": "train"})
    rows = read_table(study / COHORT)
    for row in rows[-2:]:
        row |= {"role": "host", "n_nodules": "0", "train_rank": str(rows.index(row) - 5)}
    for name in (LISTING, COHORT):
        write_table(study / name, rows, table.COLUMNS)
    sizes = {"training_percent": [50, 100]}
    follow(study, sizes)
    jobs = snakemake(study, sizes).jobs

    def given(host: str, size: str) -> set[str]:
        file = f"results/cases/{host}/case.json"
        return {label(job) for job in jobs if file in job.input and job.wildcards_dict.get("size", size) == size}

    learning = {"train_generator", "membership", "reference", "conditions untargeted", "synthesise untargeted"}
    learning |= of_sets("memorisation", "plot_set")
    always = {"cohort", "viewer"} | of_sets("fidelity")  # which has one reference for all sizes
    assert given("g", "50") == given("g", "100") == given("h", "100") == learning | always
    assert given("h", "50") == always
    segmenters = [job for job in jobs if job.rule.name == "train_segmenter" and job.wildcards_dict["arm"] == "real"]
    assert {len(job.input) for job in segmenters} == {2, 3}  # of a, b, c, as without hosts


def nifti_folder(folder: Path) -> dict:
    """A folder of one case and the config that reads it."""
    for part in ("images", "labels"):
        (folder / "raw" / part).mkdir(parents=True)
        (folder / "raw" / part / "a.nii").write_text("voxels")
    return {"study": {"name": "nifti"}, "cohort": {"dataset": "nifti", "root": str(folder / "raw")}}


def replace(path: Path, text: str) -> None:
    """Another file in its place, a year older than the one that was there: rsync -a, cp -p, unzip."""
    old = path.stat()
    path.unlink()
    path.write_text(text)
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns - 365 * 86_400 * 10**9))


CHANGES = {
    "an image more": lambda raw: (raw / "images/b.nii").write_text("voxels"),
    "a label less": lambda raw: (raw / "labels/a.nii").unlink(),
    "a list": lambda raw: (raw / "cases.tsv").write_text("case\tpatient\na\tp\n"),
    "an older label of the same size": lambda raw: replace(raw / "labels/a.nii", "VOXELS"),
    "an older image": lambda raw: replace(raw / "images/a.nii", "other voxels"),
    "names of labels": lambda raw: (raw / "dataset.json").write_text("{}"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_in_a_nifti_folder_is_noticed(tmp_path, change):
    """The root's own time does not change with what is in its folders, and a file's time may be an older one."""
    overlay, dag = nifti_folder(tmp_path), DAGSettings(targets={LISTING})
    write_cohort(tmp_path, SPLITS)
    snakemake(tmp_path, overlay, executor="touch", dag=DAGSettings(targets={LISTING}, forcetargets=True))
    assert list(snakemake(tmp_path, overlay, dag=dag).needrun_jobs(exclude_finished=False)) == []
    before = (tmp_path / "raw").stat()
    CHANGES[change](tmp_path / "raw")
    os.utime(tmp_path / "raw", ns=(before.st_atime_ns, before.st_mtime_ns))
    found = snakemake(tmp_path, overlay, dag=dag).needrun_jobs(exclude_finished=False)
    assert [job.rule.name for job in found] == ["listing"]


@pytest.mark.parametrize("column", ["raw", "patient"])
def test_a_nifti_case_of_other_bytes_or_patient_is_prepared_again_and_no_other(tmp_path, column):
    """Whatever the time stamps say: the listing has a digest of each case's files. And by whom it is, as corrected in
    cases.tsv, the case itself says to all that counts patients."""
    overlay = nifti_folder(tmp_path)
    write_cohort(tmp_path, SPLITS, raw="0123456789ab")
    snakemake(tmp_path, overlay, executor="touch", dag=DAGSettings(targets={LISTING}, forcetargets=True))
    follow(tmp_path, overlay)
    assert cases_of(follow(tmp_path, overlay)) == set()
    rows = read_table(tmp_path / LISTING)
    rows[1][column] = "another12345"
    write_table(tmp_path / LISTING, rows, table.COLUMNS)
    assert cases_of(follow(tmp_path, overlay)) == {"b"}


def test_the_table_of_cases_follows_a_listing_that_comes_out_the_same(tmp_path):
    """As where a raw file was only touched. Without it Snakemake starts jobs whose cases are not known yet: <TBD>."""
    overlay = nifti_folder(tmp_path)
    write_cohort(tmp_path, SPLITS, raw="0123456789ab")
    snakemake(tmp_path, overlay, executor="touch", dag=DAGSettings(targets={LISTING}, forcetargets=True))
    follow(tmp_path, overlay)
    os.utime(tmp_path / "raw/images/a.nii")
    snakemake(tmp_path, overlay, executor="touch", dag=DAGSettings(targets={LISTING}))
    found = snakemake(tmp_path, overlay, dag=DAGSettings(targets={COHORT})).needrun_jobs(exclude_finished=False)
    assert [job.rule.name for job in found] == ["cohort"]


def test_an_older_slice_is_noticed(study):
    replace(study / RAW / "b/series/1.dcm", "slice 9 of b")
    assert cases_of(follow(study)) == {"b"}


def test_a_lost_table_of_names_is_told_in_a_line(study):
    (study / NAMES).rename(study / "kept")
    with pytest.raises(WorkflowError, match=r"names\.tsv is gone.*delete results/listing\.tsv and results/coh"):
        snakemake(study, {})


def test_names_of_nifti_files_are_in_no_record_of_snakemake(tmp_path):
    """Neither as an input nor on a command line: they may be patients' names."""
    overlay = nifti_folder(tmp_path)
    for part in ("images", "labels"):
        (tmp_path / "raw" / part / "a.nii").rename(tmp_path / "raw" / part / "SMITH_JANE.nii")
    write_cohort(tmp_path, {"case-0001": "train", "case-0002": "validation", "case-0003": "test"})
    snakemake(tmp_path, overlay, executor="touch", dag=DAGSettings(targets={LISTING}, forcetargets=True))
    jobs = follow(tmp_path, overlay)
    assert cases_of(jobs) == {"case-0001", "case-0002", "case-0003"}
    assert not [job for job in jobs if "SMITH" in f"{job.shellcmd} {job.input} {job.params}"]
    kept = [path for path in (tmp_path / ".snakemake").rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if b"SMITH" in path.read_bytes()]


def test_a_case_s_name_may_begin_with_a_dash(tmp_path):
    """That of a file called 张伟 or "(1) scan" does, where names are public; it is no option of the command."""
    overlay = nifti_folder(tmp_path)
    write_cohort(tmp_path, {"-1--scan": "train", "b": "validation", "c": "test"}, raw="0123456789ab")
    snakemake(tmp_path, overlay, executor="touch", dag=DAGSettings(targets={LISTING}, forcetargets=True))
    (job,) = [job for job in follow(tmp_path, overlay) if cases_of([job]) == {"-1--scan"}]
    words = shlex.split(job.shellcmd.partition(" > ")[0])[1:]
    assert make_parser().parse_args(words).case == "-1--scan"


def test_dicom_that_is_added_waits_to_be_asked_for(tmp_path):
    """A download that goes on would move patients from one split to another."""
    (tmp_path / "raw/LIDC-IDRI-0001").mkdir(parents=True)
    overlay = {"study": {"name": "lidc"}, "cohort": {"dataset": "lidc", "root": str(tmp_path / "raw")}}
    dag = DAGSettings(targets={LISTING})
    write_cohort(tmp_path, SPLITS)
    snakemake(tmp_path, overlay, executor="touch", dag=dag)
    (tmp_path / "raw/LIDC-IDRI-0002").mkdir()
    later = time.time() + 10
    os.utime(tmp_path / "raw", (later, later))
    assert list(snakemake(tmp_path, overlay, dag=dag).needrun_jobs(exclude_finished=False)) == []


def test_names_with_a_plus_are_names_and_no_patterns(finished):
    sets = {"un+used": {"generator": "patch_ddpm", "conditions": "untargeted", "volumes": 2}}
    overlay = {"sets": sets, "arms": {"more": {"real": True, "synthetic": "un+used", "synthetic_share": 0.5}}}
    overlay["segmenters"] = {"an+other": OTHER_SEGMENTER["other"]}
    found = {
        job.wildcards_dict.get("set") or job.wildcards_dict.get("segmenter")
        for job in snakemake(finished, overlay).jobs
    }
    assert {"un+used", "an+other"} <= found


def test_two_numbers_that_change_places_are_two_changes(study):
    """Snakemake compares the values of all parameters as one set, without their names."""
    swapped = {"sets": {"targeted": {"volumes": 1}}, "benchmark": {"worst_cases": 2}}
    assert "conditions targeted" in {label(job) for job in to_run(study, swapped)}


def test_braces_in_a_text_are_no_wildcards(finished):
    """In any text of the config; Snakemake would look for a wildcard or a variable of that name."""
    name, reason = "grant {x}, {{y}} of <z>, {synthesis[steps]}", "see {batch} of <site>"
    dag = snakemake(finished, {"study": {"name": name}, "cohort": {"exclude": {"nosuch": reason}}})
    commands = {job.rule.name: job.shellcmd for job in dag.jobs}
    assert reason in commands["listing"]
    assert all(name in commands[rule] for rule in ("plot_arms", "plot_set", "report", "train_generator"))


def test_the_dry_run_says_why_in_words(finished):
    dag = snakemake(finished, {"synthesis": {"steps": 9}})
    why = {label(job): str(dag.reason(job)) for job in dag.jobs}
    assert "Params have changed since last execution" in why["synthesise targeted"]
    assert '"steps":9' in why["synthesise targeted"]


def test_a_copied_study_is_still_finished(finished, tmp_path):
    """A study may be moved: times and Snakemake's records go with it."""
    assert to_run(shutil.copytree(finished, tmp_path / "elsewhere", symlinks=True)) == []
