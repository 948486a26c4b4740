"""Verbs of the generation: cases to a trained generator, masks and a generator to checked synthetic cases."""

from functools import cache
from pathlib import Path

from lungsyn.cli.arguments import add, add_compute, add_numbers, add_section, case_folders, checkpoints_of, verb
from lungsyn.errors import InputError
from lungsyn.provenance import file_digest, note
from lungsyn.settings.generators import TrainedGenerator
from lungsyn.settings.synthesis import Grid, Quality, Synthesis
from lungsyn.volume.files import (
    data_digests,
    open_case,
    read_json,
    read_written,
    whole,
    whole_case,
    write_arrays,
    write_case,
    write_json,
    write_json_lines,
)
from lungsyn.volume.tables import read_table, write_table


def _train_arguments(parser):
    add_section(parser, generator=TrainedGenerator)
    add_numbers(parser, "seed")
    add(parser, "cases", nargs="+")
    add(parser, "checkpoints", "model", "curve", "live")
    parser.add_argument("--study", default="", help="the study's name, on the live picture")
    add_compute(parser)


@verb("generation", "train", _train_arguments)
def generation_train(args) -> None:
    """Train a generator on the patches of the given cases (the train split)."""
    from lungsyn import checkpoint
    from lungsyn.compute import choose_device
    from lungsyn.generators.core.training import train
    from lungsyn.live import watcher
    from lungsyn.processes import team

    folders, recipe = whole(case_folders(args.cases)), (args.generator, args.compute, args.seed)
    with team(choose_device(args.compute)) as processes:
        watch = watcher(folders, *recipe, args.live, args.study)
        weights, facts, records = train(folders, *recipe, checkpoints_of(args), processes, watch)
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
    from lungsyn.masks.core import placing as conditions

    folders = whole(case_folders(args.cases))
    smallest_mm = conditions.smallest_diameter_mm(read_json(folder / "case.json") for folder in folders)
    if args.kind == "targeted":
        if not args.predictions:
            raise InputError("--predictions is missing: targeted masks come from the benchmark's worst cases")
        worst = worst_cases(_benchmark_dice(args.predictions[0], folders), args.worst_cases)
        rows = conditions.targeted(worst, args.volumes, args.seed, smallest_mm)
    else:
        names = [folder.name for folder in folders]
        place = conditions.usual_place(open_case(folder) for folder in folders)
        rows = conditions.untargeted(names, args.volumes, args.seed, smallest_mm, place, args.kind)
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
            "dice": dice(nodule_mask(read_written(path).data), open_case(folder).nodules != 0),
        }
        for folder in validation
        for path in sorted(predictions.glob(f"*/{folder.name}.nii"))
    ]


def _reference_arguments(parser):
    add_section(parser, grid=Grid, quality=Quality)
    add(parser, "cases", nargs="+")
    add(parser, "out")


@verb("generation", "reference", _reference_arguments)
def generation_reference(args) -> None:
    """Measure real cases (the train split): the ranges in which a synthetic case must lie."""
    from lungsyn.quality.measures import measure
    from lungsyn.quality.ranges import reference

    measured = {folder.name: measure(whole_case(folder), args.grid) for folder in case_folders(args.cases)}
    write_json(args.out, reference(measured, args.quality.false_rejections))


def _synthesise_arguments(parser):
    parser.add_argument("--model", type=Path, help="the trained generator; without: real nodules are pasted")
    parser.add_argument("--reference", type=Path, help="ranges of the measures (with --model)")
    add(parser, "conditions")
    add_numbers(parser, "batch")
    parser.add_argument("--set", required=True, help="name of the synthetic set, noted in its cases")
    add_section(parser, synthesis=Synthesis, quality=Quality)
    add(parser, "cases", nargs="+")
    add_compute(parser)
    add(parser, "out")


@verb("generation", "synthesise", _synthesise_arguments)
def generation_synthesise(args) -> None:
    """Make one batch of a set's volumes, check them, and write them in the layout of a real case."""
    from lungsyn.compute import describe
    from lungsyn.generators.core.cases import attempts_at, load_generator, pasted_case
    from lungsyn.quality.attempts import REJECTED_COLUMNS, middle_slices, record, rejected_rows

    sources = {folder.name: folder for folder in case_folders(args.cases)}
    size = args.synthesis.volumes_per_job
    rows = read_table(args.conditions)[args.batch * size : (args.batch + 1) * size]
    generator = load_generator(args.model, args.compute) if args.model else None
    reference = read_json(args.reference) if args.model else {}
    tries, records = args.quality.tries, []
    made = note(args.rule, synthesis=args.synthesis, quality=args.quality)
    made |= {"ran_on": describe(generator.device, generator.precision)} if generator else {}
    model = {"model": file_digest(args.model)} if args.model else {}

    @cache
    def open_source(name: str):
        return whole_case(sources[name])

    def checked_case(row: dict):
        for attempt in attempts_at(generator, row, args.synthesis, open_source, reference, tries):
            records.append(record(row, attempt, tries))
            if attempt.faults:
                picture = args.out / "rejected" / f"{row['volume']}-{attempt.number}.npz"
                write_arrays(picture, middle_slices(attempt.case))
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
        write_table(args.out / "rejected.tsv", rejected_rows(records), REJECTED_COLUMNS)
