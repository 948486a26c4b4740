"""`lungsyn <stage> <verb>`: parse, load, call, save. No arithmetic here.

Each verb is one rule of the workflow. Sections of the config arrive as JSON (``--generator '{...}'``). Modules are
imported by the verb that needs them: preparing a case must not wait for torch.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lungsyn import config
from lungsyn.codedigest import of_verb
from lungsyn.errors import InputError
from lungsyn.provenance import file_digest, note, peak_host_mb, versions
from lungsyn.volume.files import (
    data_digests,
    map_volume,
    open_case,
    read_json,
    read_volume,
    write_arrays,
    write_case,
    write_json,
    write_json_lines,
    write_text,
)
from lungsyn.volume.tables import read_table, write_table

VERBS: dict[tuple[str, str], tuple[Callable, Callable]] = {}
NO_JOB = {("config", "schema"), ("cohort", "export"), ("evaluation", "answer"), ("study", "why"), ("study", "plan")}


def verb(stage: str, name: str, arguments: Callable[[argparse.ArgumentParser], None]) -> Callable:
    """Register the decorated function as ``lungsyn stage name``; verbs of ``study`` are called by their name alone."""

    def register(run: Callable) -> Callable:
        VERBS[stage, name] = (run, arguments)
        return run

    return register


def main(argv: list[str] | None = None) -> int:
    """The command line. User errors are one message and exit code 2, without a traceback."""
    # OpenMP threads that spin while they wait starve whatever else runs here, such as another job of the same run.
    # It has to be said before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    args = make_parser().parse_args(argv)
    name = f"lungsyn {' '.join(args.rule)}".replace("study ", "")
    started = time.monotonic()
    if args.rule not in NO_JOB:
        print(
            f"{name}: code {of_verb(*args.rule)}, " + ", ".join(f"{k} {v}" for k, v in versions().items()), flush=True
        )
    try:
        args.run(args)
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    if args.rule not in NO_JOB:
        print(f"{name}: done in {time.monotonic() - started:.1f} s, {peak_host_mb():,} MB of memory", flush=True)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """One subcommand per stage, one below it per verb."""
    parser = argparse.ArgumentParser(prog="lungsyn", description=__doc__.splitlines()[0])
    stages = parser.add_subparsers(required=True, metavar="stage")
    groups = {"study": stages}
    for (stage, name), (run, arguments) in VERBS.items():
        if stage not in groups:
            groups[stage] = stages.add_parser(stage).add_subparsers(required=True, metavar="verb")
        summary = run.__doc__.splitlines()[0]
        child = groups[stage].add_parser(name, help=summary, description=summary)
        arguments(child)
        child.set_defaults(run=run, rule=(stage, name))
    return parser


def section(model: type[config.Section]) -> Callable[[str], config.Section]:
    """An argument type: a section of the config as JSON."""

    def parse(text: str) -> config.Section:
        try:
            return config.from_json(model, text)
        except InputError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parse.__name__ = model.__name__.lower()
    return parse


def case_folders(paths: list[Path]) -> list[Path]:
    """The case folders that ``paths`` name: a case.json, or a folder of cases; in the given order, sorted within."""
    folders = []
    for path in paths:
        if path.name == "case.json":
            folders.append(path.parent)
        else:
            folders += sorted(file.parent for file in path.glob("*/case.json"))
    return folders


def add(parser: argparse.ArgumentParser, *names: str, **options) -> None:
    """Add required path arguments; ``nargs`` and the like as for argparse."""
    for name in names:
        parser.add_argument(f"--{name}", required=True, **({"type": Path} | options))


def add_section(parser: argparse.ArgumentParser, **models: type[config.Section]) -> None:
    for name, model in models.items():
        parser.add_argument(f"--{name}", required=True, type=section(model), metavar="JSON")


def add_compute(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--compute", type=section(config.Compute), default=config.Compute(), metavar="JSON")


def add_numbers(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        parser.add_argument(f"--{name}", required=True, type=int)


# ------------------------------------------------------------------------------------------------- the study as a whole


def _why_arguments(parser):
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")


@verb("study", "why", _why_arguments)
def study_why(args) -> None:
    """Print what made a file: rule, settings, seed, inputs with their digests, code, versions, device, cost."""
    from lungsyn.why import explain

    print("\n\n".join(explain(path) for path in args.files))


def _plan_arguments(parser):
    parser.add_argument("--configfile", type=Path, action="append", default=[], help="overlays of config.yaml")
    parser.add_argument("--cases", type=int, help="number of cases, where the data are not here")


@verb("study", "plan", _plan_arguments)
def study_plan(args) -> None:
    """Print what a study will cost: jobs, hours and memory per rule, disk. Run it in the repository's folder."""
    from lungsyn import planning

    files = [Path("config.yaml"), *args.configfile]
    study = config.check(config.read(files))
    n_cases = args.cases or planning.expected_cases(study)
    if n_cases < 3:
        raise InputError(f"{n_cases} cases below cohort.root {study.cohort.root}: say how many with --cases N")
    print(planning.plan(study, planning.jobs_of(files, study, n_cases), n_cases, Path("results")))


# ------------------------------------------------------------------------------------------------------------ config


def _schema_arguments(parser):
    add(parser, "out")


@verb("config", "schema", _schema_arguments)
def config_schema(args) -> None:
    """Write the JSON schema of config.yaml, made from the models."""
    write_text(args.out, config.schema_yaml())


# ------------------------------------------------------------------------------------------------------------ cohort


def _phantom_arguments(parser):
    add_section(parser, phantom=config.Phantom, nodules=config.Nodules)
    add_numbers(parser, "seed", "workers")
    add(parser, "out")


@verb("cohort", "phantom", _phantom_arguments)
def cohort_phantom(args) -> None:
    """Simulate chests and write them as DICOM series in LIDC-IDRI's layout."""
    from lungsyn.cohort.phantom import write_cohort

    write_cohort(args.phantom, args.nodules, args.seed, args.out, args.workers)


def _index_arguments(parser):
    add_section(parser, cohort=config.Listing)
    add_numbers(parser, "seed", "workers")
    add(parser, "root", "out")


@verb("cohort", "index", _index_arguments)
def cohort_index(args) -> None:
    """List and check the cases of a dataset, split them by patient, say what is left out and why."""
    from lungsyn.cohort import table

    rows = table.index(args.cohort, args.root, args.seed, args.workers)
    write_table(args.out, rows, table.COLUMNS)
    print(table.summary(rows))


def _prepare_arguments(parser):
    parser.add_argument("--row", required=True, type=json.loads, metavar="JSON", help="the case's row of cohort.tsv")
    add_section(parser, cohort=config.Preparation)
    add(parser, "root", "out")


@verb("cohort", "prepare", _prepare_arguments)
def cohort_prepare(args) -> None:
    """Read one case's raw files and write it as NIfTI on an isotropic grid, with its masks."""
    from lungsyn.cohort.table import prepare_case

    write_case(args.out, prepare_case(args.row, args.cohort, args.root))


def _nodules_arguments(parser):
    add(parser, "cases", nargs="+")
    add(parser, "out")


@verb("cohort", "nodules", _nodules_arguments)
def cohort_nodules(args) -> None:
    """List every nodule of the given cases: size, place at the pleura, readers and their ratings."""
    from lungsyn.cohort.table import NODULE_COLUMNS, nodule_rows

    write_table(args.out, nodule_rows(read_json(f / "case.json") for f in case_folders(args.cases)), NODULE_COLUMNS)


def _export_arguments(parser):
    add(parser, "format", type=str, choices=["nnunet", "dicom"])
    add(parser, "cases", nargs="+")
    parser.add_argument("--verdict", type=Path, help="the set's verdict: unless it is pass, nothing is exported")
    add(parser, "out")


@verb("cohort", "export", _export_arguments)
def cohort_export(args) -> None:
    """Write cases, real or synthetic, as an nnU-Net raw dataset, or synthetic ones as DICOM CT and SEG."""
    from lungsyn.cohort import export

    if args.verdict:
        export.refuse_unless_passed(read_json(args.verdict))
    write = {"nnunet": export.write_nnunet, "dicom": export.write_dicom}[args.format]
    write(args.out, [(folder.name, open_case(folder)) for folder in case_folders(args.cases)])


# -------------------------------------------------------------------------------------------------------- generation


def _checkpoints(args) -> Path:
    """A training goes on from a checkpoint of the same code only; settings, seed and cases name the folder within."""
    return args.checkpoints / of_verb(*args.rule)


def _train_arguments(parser):
    add_section(parser, generator=config.Generator)
    add_numbers(parser, "seed")
    add(parser, "cases", nargs="+")
    add(parser, "checkpoints", "model", "curve", "live")
    add_compute(parser)


@verb("generation", "train", _train_arguments)
def generation_train(args) -> None:
    """Train a generator on the patches of the given cases (the train split)."""
    from lungsyn import checkpoint
    from lungsyn.compute import choose_device
    from lungsyn.generation.training import train
    from lungsyn.live import watcher
    from lungsyn.processes import team

    folders, recipe = case_folders(args.cases), (args.generator, args.compute, args.seed)
    with team(choose_device(args.compute)) as processes:
        watch = watcher(folders, *recipe, args.live)
        weights, facts, records = train(folders, *recipe, _checkpoints(args), processes, watch)
    if processes.leads:
        made = note(
            args.rule, generator=args.generator, seed=args.seed, cases=[folder.name for folder in folders],
            inputs=dict(data_digests(folders)),
        ) | facts  # fmt: skip
        checkpoint.save(args.model, weights, made)
        write_json_lines(args.curve, records)


def _conditions_arguments(parser):
    parser.add_argument("--kind", required=True, choices=["untargeted", "targeted", "inpainted"])
    add_numbers(parser, "volumes", "worst-cases", "seed")
    add(parser, "cases", nargs="+")
    parser.add_argument("--predictions", type=Path, nargs="*", help="the benchmark arm's for these cases (targeted)")
    add(parser, "out")


@verb("generation", "conditions", _conditions_arguments)
def generation_conditions(args) -> None:
    """Decide which masks to synthesise: one row per volume."""
    from lungsyn.evaluation.groups import worst_cases
    from lungsyn.generation import conditions

    if args.kind == "targeted":
        if not args.predictions:
            raise InputError("--predictions is missing: targeted masks come from the benchmark's worst cases")
        worst = worst_cases(_benchmark_dice(args.predictions[0], case_folders(args.cases)), args.worst_cases)
        rows = conditions.targeted(worst, args.volumes, args.seed)
    else:
        names = [folder.name for folder in case_folders(args.cases)]
        rows = conditions.untargeted(names, args.volumes, args.seed, args.kind)
    write_table(args.out, rows, conditions.COLUMNS)


def _benchmark_dice(predictions: Path, validation: list[Path]) -> list[dict]:
    """Dice of every validation case and replicate, as in the benchmark arm's score table."""
    from lungsyn.evaluation.dice import dice
    from lungsyn.evaluation.scores import nodule_mask

    return [
        {
            "case": folder.name,
            "split": "validation",
            "replicate": path.parent.name,
            "dice": dice(nodule_mask(read_volume(path).data), open_case(folder).nodules != 0),
        }
        for folder in validation
        for path in sorted(predictions.glob(f"*/{folder.name}.nii"))
    ]


def _reference_arguments(parser):
    add_section(parser, grid=config.Grid, quality=config.Quality)
    add(parser, "cases", nargs="+")
    add(parser, "out")


@verb("generation", "reference", _reference_arguments)
def generation_reference(args) -> None:
    """Measure real cases (the train split): the ranges in which a synthetic case must lie."""
    from lungsyn.generation.quality import measure, reference

    measured = {folder.name: measure(open_case(folder), args.grid) for folder in case_folders(args.cases)}
    write_json(args.out, reference(measured, args.quality.false_rejections))


def _synthesise_arguments(parser):
    parser.add_argument("--model", type=Path, help="the trained generator; without: real nodules are pasted")
    parser.add_argument("--reference", type=Path, help="ranges of the measures (with --model)")
    add(parser, "conditions")
    add_numbers(parser, "batch")
    parser.add_argument("--set", required=True, help="name of the synthetic set, noted in its cases")
    add_section(parser, synthesis=config.Synthesis, quality=config.Quality)
    add(parser, "cases", nargs="+")
    add_compute(parser)
    add(parser, "out")


@verb("generation", "synthesise", _synthesise_arguments)
def generation_synthesise(args) -> None:
    """Make one batch of a set's volumes, check them, and write them in the layout of a real case."""
    from lungsyn.compute import describe
    from lungsyn.generation import quality
    from lungsyn.generation.cases import attempts_at, load_generator, pasted_case

    sources = {folder.name: folder for folder in case_folders(args.cases)}
    size = args.synthesis.volumes_per_job
    rows = read_table(args.conditions)[args.batch * size : (args.batch + 1) * size]
    generator = load_generator(args.model, args.compute) if args.model else None
    reference = read_json(args.reference) if args.model else {}
    tries, records = args.quality.tries, []
    made = note(args.rule, synthesis=args.synthesis, quality=args.quality)
    made |= {"ran_on": describe(generator.device, generator.precision)} if generator else {}
    model = {"model": file_digest(args.model)} if args.model else {}

    def open_source(name: str):
        return open_case(sources[name])

    def checked_case(row: dict):
        for attempt in attempts_at(generator, row, args.synthesis, open_source, reference, tries):
            records.append(quality.record(row, attempt, tries))
            if attempt.faults:
                picture = args.out / "rejected" / f"{row['volume']}-{attempt.number}.npz"
                write_arrays(picture, quality.middle_slices(attempt.case))
        attempt.case.about["quality"] = records[-1]
        return attempt.case

    args.out.mkdir(parents=True, exist_ok=True)
    for row in rows:
        name = f"{args.set}-{row['volume']}"
        # What is pasted is real, and no other noise could make it another.
        case = checked_case(row) if generator else pasted_case(row, open_source)
        inputs = model | dict(data_digests({sources[row["nodule_case"]], sources[row["body_case"]]}))
        case.about.update(case=name, set=args.set, made=made | {"row": row, "inputs": inputs})
        write_case(args.out / name, case)
    if generator:
        write_json(args.out / "attempts.json", {"attempts": records})
        write_table(args.out / "rejected.tsv", quality.rejected_rows(records), quality.REJECTED_COLUMNS)


def _quality_arguments(parser):
    add(parser, "synthetic", nargs="+")
    add(parser, "reference", "out")


@verb("generation", "quality", _quality_arguments)
def generation_quality(args) -> None:
    """Say how many volumes of a set were made and rejected, and why."""
    from lungsyn.generation.quality import RATE_COLUMNS, rates

    records = [r for folder in args.synthetic for r in read_json(folder / "attempts.json")["attempts"]]
    write_table(args.out, rates(records, read_json(args.reference)), RATE_COLUMNS)


# ------------------------------------------------------------------------------------------------------ segmentation


def _train_segmenter_arguments(parser):
    add_section(parser, segmenter=config.Segmenter)
    add_numbers(parser, "seed", "replicate")
    parser.add_argument("--reseeded", action="store_true", help="other random draws than the other arms (control)")
    parser.add_argument("--cases", nargs="*", type=Path, default=[], help="real cases")
    parser.add_argument("--synthetic", nargs="*", type=Path, default=[], help="synthetic cases")
    parser.add_argument("--synthetic-share", type=float, help="of the training patches; without: by number of cases")
    add(parser, "checkpoints", "model", "curve")
    add_compute(parser)


@verb("segmentation", "train", _train_segmenter_arguments)
def segmentation_train(args) -> None:
    """Train one replicate of a segmenter on the given cases, real or synthetic."""
    from lungsyn import checkpoint
    from lungsyn.segmentation.training import replicate_seed, train

    real, synthetic = case_folders(args.cases), case_folders(args.synthetic)
    seed = replicate_seed(args.seed, args.replicate, args.reseeded)
    weights, facts, records = train(
        real, synthetic, args.synthetic_share, args.segmenter, args.compute, seed, _checkpoints(args)
    )
    made = note(
        args.rule, segmenter=args.segmenter, seed=seed, synthetic_share=args.synthetic_share,
        cases=[folder.name for folder in real], synthetic=[folder.name for folder in synthetic],
        inputs=dict(data_digests([*real, *synthetic])),
    ) | facts  # fmt: skip
    checkpoint.save(args.model, weights, made)
    write_json_lines(args.curve, records)


def _predict_arguments(parser):
    add(parser, "models", "cases", nargs="+")
    add_compute(parser)
    add(parser, "out")


@verb("segmentation", "predict", _predict_arguments)
def segmentation_predict(args) -> None:
    """Segment cases with every replicate of an arm: OUT/{replicate}/{case}.nii."""
    from lungsyn.segmentation.prediction import load_segmenter, predict
    from lungsyn.volume.files import write_volume
    from lungsyn.volume.space import Volume

    for model in args.models:
        segmenter = load_segmenter(model, args.compute)
        for folder in case_folders(args.cases):
            case = open_case(folder)
            percent = predict(segmenter, case)
            write_volume(args.out / model.parent.name / f"{folder.name}.nii", Volume(percent, case.affine))


# ------------------------------------------------------------------------------------------------------------- audit


def _probe_arguments(parser):
    add_section(parser, audit=config.Probing)
    add_numbers(parser, "seed")
    add(parser, "synthetic", "train", "held-out", nargs="+")
    add_compute(parser)
    add(parser, "out")


@verb("audit", "memorisation", _probe_arguments)
def audit_memorisation(args) -> None:
    """Find the nearest train cube of every synthetic, held-out and planted one: nodules and whole volumes."""
    from lungsyn.audit import probes
    from lungsyn.compute import choose_device, set_up

    device = choose_device(args.compute)
    set_up(args.compute.generator_threads, device)
    groups = [case_folders(paths) for paths in (args.synthetic, args.train, args.held_out)]
    rows = [row for kind in probes.KINDS for row in probes.probe(kind, *groups, args.audit, args.seed, device)]
    write_table(args.out, rows, probes.COLUMNS)


def _membership_arguments(parser):
    add_numbers(parser, "seed")
    add(parser, "model")
    add(parser, "train", "unseen", nargs="+")
    add_compute(parser)
    add(parser, "out")


@verb("audit", "membership", _membership_arguments)
def audit_membership(args) -> None:
    """Measure the generator's loss on each case that it learned from and on each that it never saw."""
    from lungsyn.audit import membership
    from lungsyn.generation.cases import load_generator
    from lungsyn.provenance import model_facts

    generator = load_generator(args.model, args.compute)
    folders = [case_folders(paths) for paths in (args.train, args.unseen)]
    groups = membership.case_groups(model_facts(args.model), generator.settings, *folders)
    write_table(args.out, membership.attack(generator, groups, args.seed), membership.COLUMNS)


def _verdict_arguments(parser):
    add_section(parser, audit=config.Thresholds)
    add_numbers(parser, "seed", "size")
    parser.add_argument("--set", required=True, help="name of the synthetic set")
    parser.add_argument("--held-out-splits", required=True, nargs="+", help="where the held-out cases are from")
    add(parser, "neighbours", "out")
    parser.add_argument("--membership", type=Path, help="losses of the generator, if it has any")
    parser.add_argument("--measures", type=Path, nargs="*", default=[], help="JSON of other measures with 'checks'")


@verb("audit", "verdict", _verdict_arguments)
def audit_verdict(args) -> None:
    """Say whether a synthetic set can be shared: every check with its value, threshold and a sentence."""
    from lungsyn.audit.verdict import verdict

    losses = read_table(args.membership) if args.membership else []
    others = [check for path in args.measures for check in read_json(path).get("checks", [])]
    found = verdict(read_table(args.neighbours), losses, others, args.audit, args.seed)
    about = {
        "set": args.set,
        "size": args.size,
        "held_out_splits": args.held_out_splits,
        "made": note(args.rule, audit=args.audit),
    }
    write_json(args.out, about | found)
    print(f"{args.set}: {found['result']}", *(f"{c['result']}: {c['sentence']}" for c in found["checks"]), sep="\n")


def _plot_nearest_arguments(parser):
    add(parser, "neighbours", "out")
    add(parser, "synthetic", "train", "held-out", nargs="+")
    add_section(parser, audit=config.Probing, study=config.Study, figures=config.Figures)
    parser.add_argument("--set", required=True, help="name of the synthetic set")


@verb("audit", "plot-nearest", _plot_nearest_arguments)
def audit_plot_nearest(args) -> None:
    """Draw the synthetic cases that are closest to train cases, beside held-out ones."""
    from lungsyn.audit import probes
    from lungsyn.audit.pictures import plot_nearest

    folders = case_folders([*args.synthetic, *args.train, *args.held_out])
    places = {kind: {place.name: place for place in probes.find_places(kind, folders)} for kind in probes.KINDS}
    cutters = {kind: probes.choose_cutter(kind, list(found.values()), args.audit) for kind, found in places.items()}
    plot_nearest(
        read_table(args.neighbours), places, cutters, args.audit.max_shift_voxels, args.study.name, args.set,
        args.figures, args.out,
    )  # fmt: skip


def _fidelity_arguments(parser):
    add(parser, "real-train", "real-held-out", "synthetic", nargs="+")
    parser.add_argument("--set", required=True, help="name of the synthetic set")
    add_section(parser, fidelity=config.Fidelity)
    add_numbers(parser, "size", "seed")
    add(parser, "out")


@verb("audit", "fidelity", _fidelity_arguments)
def audit_fidelity(args) -> None:
    """Measure how far a synthetic set is from the train cases, beside how far held-out real cases are."""
    from lungsyn.audit import features, floor

    extract, about = features.choose(args.fidelity.weights)
    openers = _specimens(*(case_folders(paths) for paths in (args.real_train, args.real_held_out, args.synthetic)))
    measured = floor.measure_sets(openers, args.fidelity.slices_per_case, extract)
    found = floor.audit(*measured, args.seed)
    print(floor.summary(found))
    made = note(args.rule, fidelity=args.fidelity, seed=args.seed, extractor=about)
    write_json(args.out, {"set": args.set, "size": args.size, "made": made} | found)


def _specimens(train: list[Path], held_out: list[Path], synthetic: list[Path]) -> dict:
    """Per set and case, a function that opens it. If any set is inpainted, only what was made anew counts, in all."""
    from dataclasses import replace
    from functools import partial

    import numpy as np

    from lungsyn.audit.specimens import specimen
    from lungsyn.generation.conditions import region_to_make

    sources = {folder.name: folder for folder in train}
    inpainted = any(read_json(f / "case.json")["made"]["row"]["why"] == "inpainted" for f in synthetic)

    def made(case, kept):
        return region_to_make(case.nodules, replace(case, nodules=kept)) > 0 if inpainted else None

    def real(folder):
        case = open_case(folder)
        return specimen(case, case.about["patient"], made(case, np.zeros_like(case.nodules)))

    def fake(folder):
        case = open_case(folder)
        before = open_case(sources[case.about["made"]["row"]["body_case"]]).nodules if inpainted else case.nodules
        return specimen(case, folder.name, made(case, before), int(before.max()) + 1 if inpainted else 1)

    sets = {"train": (real, train), "held_out": (real, held_out), "synthetic": (fake, synthetic)}
    return {name: [partial(opener, folder) for folder in folders] for name, (opener, folders) in sets.items()}


def _plot_fidelity_arguments(parser):
    add(parser, "fidelity", "out")
    add_section(parser, study=config.Study, figures=config.Figures)


@verb("audit", "plot-fidelity", _plot_fidelity_arguments)
def audit_plot_fidelity(args) -> None:
    """Draw each measure of a synthetic set beside its real-vs-real floor."""
    from lungsyn.audit.figures import plot_fidelity

    plot_fidelity(read_json(args.fidelity), args.study.name, args.figures.dpi, args.out)


# -------------------------------------------------------------------------------------------------------- evaluation


def _score_arguments(parser):
    add(parser, "predictions", "cohort", "out", "nodules", "points")
    add(parser, "cases", nargs="+")


@verb("evaluation", "score", _score_arguments)
def evaluation_score(args) -> None:
    """Measure every prediction of an arm, and the replicates' mean: per case, per nodule, and points of the FROC."""
    from lungsyn.evaluation.froc import POINT_COLUMNS
    from lungsyn.evaluation.scores import NODULE_COLUMNS, SCORE_COLUMNS, score_arm

    split = {row["case"]: row["split"] for row in read_table(args.cohort)}
    tables = [], [], []
    for folder in case_folders(args.cases):
        percents = {
            path.parent.name: read_volume(path).data for path in sorted(args.predictions.glob(f"*/{folder.name}.nii"))
        }
        for table, rows in zip(tables, score_arm(percents, open_case(folder), split[folder.name]), strict=True):
            table += rows
    for path, rows, columns in zip(
        (args.out, args.nodules, args.points), tables, (SCORE_COLUMNS, NODULE_COLUMNS, POINT_COLUMNS), strict=True
    ):
        write_table(path, rows, columns)


def _read_arms(paths: list[Path]) -> dict[str, list[dict]]:
    """Score tables ``.../{arm}/{size}.tsv`` of one size, by arm."""
    from lungsyn.evaluation.scores import read_scores

    return {path.parent.name: read_scores(path) for path in paths}


def _worst(benchmark_scores: Path, benchmark: config.Benchmark) -> list[str]:
    from lungsyn.evaluation.groups import worst_cases
    from lungsyn.evaluation.scores import read_scores

    return worst_cases(read_scores(benchmark_scores), benchmark.worst_cases)


def _compare_arguments(parser):
    add(parser, "scores", "benchmark-scores", nargs="+")
    add(parser, "out")
    add_section(parser, benchmark=config.Benchmark, evaluation=config.Evaluation)
    add_numbers(parser, "seed")


@verb("evaluation", "compare", _compare_arguments)
def evaluation_compare(args) -> None:
    """Compare every arm with the benchmark arm, paired by case, in each group, at each training-set size."""
    from lungsyn.evaluation.comparison import COMPARISON_COLUMNS, compare

    rows = []
    for benchmark in args.benchmark_scores:  # .../{arm}/{size}.tsv
        scores = _read_arms([path for path in args.scores if path.stem == benchmark.stem])
        worst = _worst(benchmark, args.benchmark)
        rows += compare(scores, args.benchmark.arm, worst, args.evaluation, args.seed, int(benchmark.stem))
    write_table(args.out, rows, COMPARISON_COLUMNS)


def _arm_and_size(path: Path) -> tuple[str, int]:
    """Arm and training-set size (percent) of a score table, by its place: .../{arm}/{size}.*"""
    return path.parent.name, int(path.name.split(".")[0])


def _by_size(paths: list[Path], columns: list[str]) -> dict[int, dict[str, list[dict]]]:
    """The rows of the arms' tables: {size: {arm: rows}}."""
    from lungsyn.evaluation.scores import read_scores

    tables: dict[int, dict[str, list[dict]]] = {}
    for path in paths:
        arm, size = _arm_and_size(path)
        tables.setdefault(size, {})[arm] = read_scores(path, columns)
    return tables


def _tested(arms: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The rows of the test cases only."""
    from lungsyn.evaluation.groups import TEST

    return {arm: [row for row in rows if row["split"] == TEST] for arm, rows in arms.items()}


def _froc_arguments(parser):
    add(parser, "points", nargs="+")
    add(parser, "out")
    add_section(parser, benchmark=config.Benchmark, evaluation=config.Evaluation)
    add_numbers(parser, "seed")


@verb("evaluation", "froc", _froc_arguments)
def evaluation_froc(args) -> None:
    """Read every arm's FROC on the test cases at seven rates of false positives, with intervals."""
    from lungsyn.evaluation.froc import FROC_COLUMNS, POINT_COLUMNS, froc_rows

    settings = args.benchmark.arm, args.evaluation.bootstrap, args.evaluation.confidence, args.seed
    tables = _by_size(args.points, POINT_COLUMNS)
    rows = [{"size": size, **row} for size, arms in tables.items() for row in froc_rows(_tested(arms), *settings)]
    write_table(args.out, rows, ["size", *FROC_COLUMNS])


def _strata_arguments(parser):
    add(parser, "nodules", nargs="+")
    add(parser, "out")
    add_section(parser, benchmark=config.Benchmark, evaluation=config.Evaluation)
    add_numbers(parser, "seed")


@verb("evaluation", "strata", _strata_arguments)
def evaluation_strata(args) -> None:
    """Compare the arms on the test nodules of each kind: by diameter, texture and place."""
    from lungsyn.evaluation.scores import NODULE_COLUMNS
    from lungsyn.evaluation.strata import STRATA_COLUMNS, strata_rows

    settings = args.benchmark.arm, args.evaluation.bootstrap, args.evaluation.confidence, args.seed
    tables = _by_size(args.nodules, NODULE_COLUMNS)
    rows = [{"size": size, **row} for size, arms in tables.items() for row in strata_rows(_tested(arms), *settings)]
    write_table(args.out, rows, ["size", *STRATA_COLUMNS])


def _summary_arguments(parser):
    add(parser, "table", "cohort", "out")
    add_section(parser, benchmark=config.Benchmark, evaluation=config.Evaluation)
    add_section(parser, study=config.Study, figures=config.Figures)
    parser.add_argument("--null-arms", nargs="*", default=[])


def _train_patients(cohort: Path, sizes: set[int]) -> dict[int, int]:
    """Number of train patients at each training-set size (percent)."""
    from lungsyn.cohort.split import within

    n = len({row["patient"] for row in read_table(cohort) if row["split"] == "train"})
    return {size: sum(within(rank, n, size) for rank in range(1, n + 1)) for size in sizes}


@verb("evaluation", "plot-ladder", _summary_arguments)
def evaluation_plot_ladder(args) -> None:
    """Draw the mean difference of every arm to the benchmark arm, with its interval and its mean Dice."""
    from lungsyn.evaluation.comparison import from_cells
    from lungsyn.evaluation.summaries import plot_ladder

    rows = from_cells(read_table(args.table))
    plot_ladder(
        rows, _train_patients(args.cohort, {row["size"] for row in rows}), args.benchmark.arm, args.null_arms,
        args.evaluation.confidence, args.study.name, args.figures.dpi, args.out,
    )  # fmt: skip


@verb("evaluation", "plot-learning", _summary_arguments)
def evaluation_plot_learning(args) -> None:
    """Draw every arm's mean Dice over the number of training patients."""
    from lungsyn.evaluation.comparison import from_cells
    from lungsyn.evaluation.summaries import plot_learning

    rows = from_cells(read_table(args.table))
    plot_learning(
        rows, _train_patients(args.cohort, {row["size"] for row in rows}), args.benchmark.arm, args.null_arms,
        args.study.name, args.figures.dpi, args.out,
    )  # fmt: skip


@verb("evaluation", "plot-froc", _summary_arguments)
def evaluation_plot_froc(args) -> None:
    """Draw every arm's FROC beside that of the benchmark arm."""
    from lungsyn.evaluation.froc import FROC_COLUMNS
    from lungsyn.evaluation.scores import read_scores
    from lungsyn.evaluation.summaries import plot_froc

    rows = read_scores(args.table, ["size", *FROC_COLUMNS])
    plot_froc(
        rows, _train_patients(args.cohort, {row["size"] for row in rows}), args.benchmark.arm, args.null_arms,
        args.study.name, args.figures.dpi, args.out,
    )  # fmt: skip


def _plot_difference_arguments(parser):
    add(parser, "scores", nargs="+")
    add(parser, "benchmark-scores", "comparison", "out")
    add_section(parser, benchmark=config.Benchmark, study=config.Study, figures=config.Figures)
    parser.add_argument("--null-arms", nargs="*", default=[])


@verb("evaluation", "plot-difference", _plot_difference_arguments)
def evaluation_plot_difference(args) -> None:
    """Draw the per-case Dice difference to the benchmark arm."""
    from lungsyn.evaluation.comparison import from_cells
    from lungsyn.evaluation.figures import plot_dice_difference

    size = int(args.benchmark_scores.stem)
    comparison = [row for row in from_cells(read_table(args.comparison)) if row["size"] == size]
    plot_dice_difference(
        _read_arms(args.scores), comparison, _worst(args.benchmark_scores, args.benchmark), args.benchmark.arm,
        args.null_arms, args.study.name, args.figures.dpi, args.out,
    )  # fmt: skip


def _plot_cases_arguments(parser):
    add(parser, "scores", "predictions", "cases", nargs="+")
    add_section(parser, study=config.Study, figures=config.Figures)
    add(parser, "out")


def _drawn(args, name: str, words: str):
    """A case to draw, with the predictions of both arms (of ``figures.case_arms``) as memory maps."""
    from lungsyn.evaluation.pictures import Drawn

    folder = next(folder for folder in case_folders(args.cases) if folder.name == name)
    predictions = {
        arm: [map_volume(path).data for path in sorted(folder.glob(f"*/{name}.nii"))]
        for arm, folder in zip(args.figures.case_arms, args.predictions, strict=True)
    }
    return Drawn(open_case(folder), predictions, words)


@verb("evaluation", "plot-cases", _plot_cases_arguments)
def evaluation_plot_cases(args) -> None:
    """Draw the test cases of best, median and worst change with every replicate's contour for two arms."""
    from lungsyn.evaluation.groups import case_means, chosen_changes
    from lungsyn.evaluation.pictures import plot_cases
    from lungsyn.evaluation.scores import read_scores

    first, second = args.figures.case_arms
    scores = {arm: read_scores(path) for arm, path in zip(args.figures.case_arms, args.scores, strict=True)}
    dice = {arm: case_means(rows, "dice") for arm, rows in scores.items()}
    chosen = chosen_changes(scores, second, first)
    drawn = [
        _drawn(args, name, f"{rule} {dice[second][name] - dice[first][name]:+.2f}\n{name}")
        for name, rule in chosen.items()
    ]
    values = [{arm: means[name] for arm, means in dice.items()} for name in chosen]
    plot_cases(drawn, values, args.study.name, args.figures, args.out)


def _plot_turned_arguments(parser):
    add(parser, "nodules", "predictions", "cases", nargs="+")
    add_section(parser, study=config.Study, figures=config.Figures)
    add(parser, "out")


@verb("evaluation", "plot-turned", _plot_turned_arguments)
def evaluation_plot_turned(args) -> None:
    """Draw the test nodules that most replicates of one arm found and most of the other missed."""
    from lungsyn.evaluation.groups import TEST
    from lungsyn.evaluation.pictures import MOST_TURNED, plot_turned
    from lungsyn.evaluation.scores import NODULE_COLUMNS, read_scores
    from lungsyn.evaluation.strata import turned

    before, after = (
        [row for row in read_scores(path, NODULE_COLUMNS) if row["split"] == TEST] for path in args.nodules
    )
    found = turned(before, after)
    drawn = [
        [(_drawn(args, row["case"], f"{row['diameter_mm']:.1f} mm\n{row['case']}"), row["nodule"])
         for row in rows[:MOST_TURNED]]
        for rows in found
    ]  # fmt: skip
    totals = len(found[0]), len(found[1])
    plot_turned(*drawn, totals, args.figures.case_arms, args.study.name, args.figures, args.out)


def _contact_sheet_arguments(parser):
    add(parser, "real", "synthetic", nargs="+")
    add_section(parser, study=config.Study, figures=config.Figures)
    add(parser, "out")


@verb("evaluation", "contact-sheet", _contact_sheet_arguments)
def evaluation_contact_sheet(args) -> None:
    """Draw random synthetic cases beside random real ones."""
    from lungsyn.evaluation.pictures import plot_contact_sheet

    real, synthetic = ({f.name: open_case(f) for f in case_folders(paths)} for paths in (args.real, args.synthetic))
    plot_contact_sheet(real, synthetic, args.study.seed, args.study.name, args.figures, args.out)


def _plot_quality_arguments(parser):
    add(parser, "synthetic", nargs="+")
    add(parser, "reference", "out")
    parser.add_argument("--set", required=True, help="name of the synthetic set, for the title")
    add_section(parser, study=config.Study, figures=config.Figures)


@verb("evaluation", "plot-quality", _plot_quality_arguments)
def evaluation_plot_quality(args) -> None:
    """Draw where the measures of real and synthetic cases lie, and rejected volumes with the reason."""
    from lungsyn.evaluation.quality import plot_quality
    from lungsyn.volume.files import read_arrays

    records = [r for folder in args.synthetic for r in read_json(folder / "attempts.json")["attempts"]]
    pictures = {p.stem: read_arrays(p) for folder in args.synthetic for p in sorted(folder.glob("rejected/*.npz"))}
    title = f"Quality control of set {args.set}"
    plot_quality(read_json(args.reference), records, pictures, title, args.study, args.figures, args.out)


def _plot_training_arguments(parser):
    add(parser, "curves", nargs="+")
    add_section(parser, study=config.Study, figures=config.Figures)
    add(parser, "out")


@verb("evaluation", "plot-training", _plot_training_arguments)
def evaluation_plot_training(args) -> None:
    """Draw the loss curves of generators and segmenters."""
    from lungsyn.evaluation.figures import plot_training

    panels: dict[str, dict[str, list[dict]]] = {}
    for path in args.curves:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        parts = path.parent.parts
        if "generator" in parts:
            panels.setdefault("generator", {})["/".join(parts[-2:])] = records
        else:
            panels.setdefault(f"segmenter {parts[-4]}", {})["/".join(parts[-3:])] = records
    plot_training(panels, args.study.name, args.figures.dpi, args.out)


def _drawn_from(path: Path) -> str:
    """What a figure shows, from its name: .../{figure}-{segmenter or set}[-{size}].png"""
    rest = path.stem.partition("-")[2]
    name, _, size = rest.rpartition("-")
    return f"{name}, {size} % of the train patients" if name and size.isdigit() else rest


def _report_arguments(parser):
    add_section(parser, config=config.Config)
    add(parser, "cohort", "training", "main-figure", "out")
    add(parser, "comparisons", "strata", "differences", "ladders", "frocs", nargs="+")
    add(parser, "learning", "case-pictures", "turned", "sheets", "verdicts", "nearest", "fidelity", nargs="*")
    add(parser, "quality", "quality-pictures", nargs="*")


@verb("evaluation", "report", _report_arguments)
def evaluation_report(args) -> None:
    """Put everything on one HTML page; copy the main figure to its short name."""
    import shutil

    from lungsyn.evaluation.comparison import by_size, from_cells
    from lungsyn.evaluation.report import build
    from lungsyn.evaluation.scores import read_scores
    from lungsyn.evaluation.strata import STRATA_COLUMNS
    from lungsyn.provenance import costs
    from lungsyn.volume.files import whole_file

    study = args.config.study
    captions = [
        (
            args.differences,
            "Difference of each case's Dice to the benchmark arm, segmenter {}. Claims rest on the test.",
        ),
        (
            args.ladders,
            "Mean difference of every arm to the benchmark arm on the test cases, by training-set size, segmenter {}. "
            "What lies within the grey band is no more than other random seeds do.",
        ),
        (
            args.learning,
            "Mean Dice of the test cases over the number of training patients, segmenter {}. Arms are to be "
            "compared at the same size, by the differences on the right.",
        ),
        (
            args.frocs,
            "FROC of every arm on the test nodules, segmenter {}: a component of at least 10 % probability is a "
            "candidate, its mean probability its confidence; the points are LUNA16's seven rates.",
        ),
        (
            args.case_pictures,
            "The test cases of best, median and worst change with every replicate's contour, segmenter {}. "
            "The rule chooses them, not a person.",
        ),
        (
            args.turned,
            "Test nodules that most replicates of one arm found and most of the other missed, segmenter {}; those on "
            "which most replicates differ first, then the larger ones.",
        ),
        (args.sheets, "Random synthetic cases of set {} with their masks' outlines, beside random real ones."),
        (
            args.quality_pictures,
            "Measures of set {}: real train cases, accepted and rejected volumes; grey: the range.",
        ),
        (
            args.fidelity,
            "Set {}: how far its cases are from the train cases, beside how far held-out real cases are: the floor.",
        ),
        (
            args.nearest,
            "Set {}: the synthetic cases closest to a train case (r: correlation of what the masks do not explain), "
            "and the held-out cases closest to one, for which it is chance.",
        ),
        ([args.training], "Loss curves of everything that was trained."),
    ]
    figures = [(path, text.format(_drawn_from(path))) for paths, text in captions for path in paths]
    comparisons = {}
    for path in args.comparisons:
        comparisons |= by_size(from_cells(read_table(path)), path.stem)
    strata = {path.name.split(".")[0]: read_scores(path, ["size", *STRATA_COLUMNS]) for path in args.strata}
    provenance = {"versions": versions(), "cost": costs(args.out.parent)}
    page = build(
        f"{study.name}: does synthetic data help?", config.as_json(args.config, {"compute"}), comparisons, strata,
        read_table(args.cohort), figures, provenance, [read_json(path) for path in args.verdicts],
        {f"{path.parent.name}, size {path.stem} %": read_table(path) for path in args.quality},
    )  # fmt: skip
    with whole_file(args.main_figure) as temporary:
        shutil.copyfile(args.differences[0], temporary)
    write_text(args.out, page)


def _answer_arguments(parser):
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"))


@verb("evaluation", "answer", _answer_arguments)
def evaluation_answer(args) -> None:
    """Print the comparison tables of a finished run and where its pictures are."""
    from lungsyn.evaluation.comparison import as_text, by_size, from_cells

    tables = (args.results / "comparison").glob("*.tsv")
    for path in sorted(path for path in tables if "." not in path.stem):  # not unet.froc.tsv, unet.strata.tsv
        for title, rows in by_size(from_cells(read_table(path)), path.stem).items():
            print(as_text(rows, f"segmenter {title}"), end="\n\n")
    print(f"report: {args.results / 'report.html'}\nfigure: {args.results / 'figures' / 'dice_difference.png'}")


if __name__ == "__main__":
    sys.exit(main())
