"""Verbs of the generation: cases to a trained generator, masks and a generator to checked synthetic cases."""

import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from lungsyn.cli.arguments import (
    add,
    add_compute,
    add_numbers,
    add_of,
    add_section,
    case_folders,
    checkpoints_of,
    cost_since,
    known_cost,
    rejected_picture,
    section,
    verb,
)
from lungsyn.errors import InputError
from lungsyn.provenance import file_digest, note
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.settings.generators import AnyGenerator
from lungsyn.settings.synthesis import AnyMasks, Grid, KindOfScan, Quality, Synthesis
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
from lungsyn.volume.source import Source
from lungsyn.volume.tables import read_table, write_table


def _train_arguments(parser):
    add_of(parser, "generator", "size")
    add_section(parser, generator=AnyGenerator)
    add_numbers(parser, "seed")
    add(parser, "cases", nargs="+")
    add(parser, "checkpoints", "model", "curve", "live")
    parser.add_argument("--study", default="", help="the study's name, on the live picture")
    add_compute(parser)


@verb("generation", "train", _train_arguments, recipe=1, seams=("generators",))
def generation_train(args) -> dict | None:
    """Train a generator on the patches of the given cases (the train split)."""
    from lungsyn import checkpoint
    from lungsyn.live import watcher

    folders, kind = whole(case_folders(args.cases)), args.generator.kind
    started, watch = time.monotonic(), partial(watcher, out=args.live, study_name=args.study)
    run = Run(args.seed, args.compute, checkpoints_of(args, kind), watch)
    trained = family("generators", kind).fit(folders, args.generator, run)
    if trained is None:
        return None
    made = note(
        (*args.rule, kind), of=args.of, generator=args.generator, seed=args.seed,
        cases=[folder.name for folder in folders],
        inputs=dict(data_digests(folders)),
        cost=cost_since(started),
    ) | trained.facts  # fmt: skip
    checkpoint.save(args.model, trained.tensors, made)
    write_json_lines(args.curve, [args.of | record for record in trained.records])
    weights = sum(tensor.numel() for tensor in trained.tensors.values() if tensor.is_floating_point())
    return known_cost(trained.facts) | {"weights": weights}


def _conditions_arguments(parser):
    add_of(parser, "set", "size")
    add_section(parser, conditions=AnyMasks)
    add_numbers(parser, "volumes", "worst-cases", "seed")
    add(parser, "cases", nargs="*")
    parser.add_argument("--table", type=Path, help="a line for each volume, of what it is to be; without: none")
    parser.add_argument("--predictions", type=Path, nargs="*", help="the benchmark arm's for these cases (targeted)")
    add(parser, "out")


@verb("generation", "conditions", _conditions_arguments, recipe=1, seams=("masks",))
def generation_conditions(args) -> None:
    """Decide which masks to synthesise: one row per volume."""
    from lungsyn.evaluation.groups import worst_cases

    folders, source = whole(case_folders(args.cases)), family("masks", args.conditions.kind)
    worst: list[str] = []
    if source.needs_benchmark:
        if not args.predictions:
            raise InputError("--predictions is missing: these masks come from the benchmark's worst cases")
        worst = worst_cases(_benchmark_dice(args.predictions[0], folders), args.worst_cases)
    settings = args.conditions.model_copy(update={"table": args.table}) if args.table else args.conditions
    rows = source.rows(folders, args.volumes, args.seed, settings, worst)
    _check_rows(rows, args.volumes, args.conditions.kind)
    write_table(args.out, [args.of | row for row in rows], [*args.of, *source.columns])


def _check_rows(rows: list[dict], volumes: int, kind: str) -> None:
    """Raises InputError where a source of masks gave too few rows, or two of one volume or seed."""
    numbers, seeds = ([row.get(key) for row in rows] for key in ("volume", "seed"))
    if len(rows) != volumes or None in numbers or min(len(set(numbers)), len(set(seeds))) < volumes:
        raise InputError(
            f"the source of masks {kind!r} gave {len(rows)} rows with {len(set(numbers))} volumes and "
            f"{len(set(seeds))} seeds: it must give {volumes}, each with its own 'volume' and 'seed'"
        )


def _benchmark_dice(predictions: Path, validation: list[Path]) -> list[dict]:
    """Dice of every validation case and replicate, as in the benchmark arm's score table."""
    from lungsyn.evaluation.dice import dice
    from lungsyn.evaluation.scores import nodule_mask
    from lungsyn.volume.predictions import of_case, read_predictions

    rows = read_predictions(predictions)
    return [
        {
            "case": folder.name,
            "split": "validation",
            "replicate": replicate,
            "dice": dice(nodule_mask(read_written(path).data), open_case(folder).nodules != 0),
        }
        for folder in validation
        for replicate, path in of_case(rows, folder.name).items()
    ]


def _reference_arguments(parser):
    add_of(parser, "generator", "size")
    parser.add_argument("--grid", type=section(Grid | None), help="where patches meet; null: there are none")
    add_section(parser, quality=Quality)
    add(parser, "cases", nargs="+")
    add(parser, "out")


@verb("generation", "reference", _reference_arguments, recipe=2)
def generation_reference(args) -> None:
    """Measure real cases (the train split): the ranges in which a synthetic case must lie."""
    from lungsyn.quality.measures import measure
    from lungsyn.quality.ranges import reference

    measured = {folder.name: measure(whole_case(folder), args.grid) for folder in case_folders(args.cases)}
    write_json(args.out, args.of | reference(measured, args.quality.false_rejections))


def _synthesise_arguments(parser):
    add_section(parser, generator=AnyGenerator, conditions=AnyMasks, synthesis=Synthesis, quality=Quality)
    parser.add_argument("--model", type=Path, help="the trained generator, where it is trained")
    parser.add_argument("--reference", type=Path, help="ranges of the measures, where they are checked")
    parser.add_argument(
        "--source", type=section(KindOfScan | None), help="kind of scan; null: that of each body's case"
    )
    parser.add_argument("--like", type=Path, help="the case.json of the case that --source is like")
    add(parser, "rows")
    add_numbers(parser, "batch")
    add_of(parser, "generator", "set", "size")
    add(parser, "cases", nargs="*")
    add_compute(parser)
    add(parser, "out")


def _asked(args) -> Source | None:
    """The kind of scan that is asked for, if any. Raises InputError where a case is to say it, and does not."""
    if args.source is None:
        return None
    if args.source.like is None:
        return Source(args.source.slice_mm, args.source.noise_hu)
    about = read_json(args.like)
    if "source" not in about:
        raise InputError(
            f"case {args.source.like} does not say what kind of scan it is: it was left out, or an older version "
            "prepared it; name another one as like, or delete its folder in results/cases"
        )
    return Source(**about["source"])


@verb("generation", "synthesise", _synthesise_arguments, recipe=1, seams=("generators", "masks"))
def generation_synthesise(args) -> None:
    """Make one batch of a set's volumes, check them, and write them in the layout of a real case."""
    from lungsyn.quality.attempts import REJECTED_COLUMNS, middle_slices, record, rejected_rows
    from lungsyn.sets import checked_attempts

    sources = {folder.name: folder for folder in case_folders(args.cases)}
    size = args.synthesis.volumes_per_job
    rows = read_table(args.rows)[args.batch * size : (args.batch + 1) * size]
    generators, masks = family("generators", args.generator.kind), family("masks", args.conditions.kind)
    generator = generators.load(args.model, args.generator, args.compute, args.synthesis)
    print(f"synthesis on {generator.ran_on}", flush=True)
    reference = read_json(args.reference) if args.reference else None
    tries, records = args.quality.tries, []
    job = (*args.rule, args.generator.kind, args.conditions.kind)
    asked = _asked(args)
    made = note(job, synthesis=args.synthesis, quality=args.quality, source=asked and asked._asdict()) | {
        "ran_on": generator.ran_on
    }
    model = {"model": file_digest(args.model)} if args.model else {}

    @cache
    def open_source(name: str):
        return whole_case(sources[name])

    args.out.mkdir(parents=True, exist_ok=True)
    for row in rows:
        scene = masks.scene(row, open_source)
        scene = scene if asked is None else replace(scene, source=asked)
        for attempt in checked_attempts(generator, scene, row, args.synthesis.steps, reference, tries):
            records.append(record(row, attempt, tries))
            if attempt.faults:
                write_arrays(args.out / rejected_picture(records[-1]), middle_slices(attempt.case))
        case, name = attempt.case, f"{args.of['set']}-{row['volume']}"
        if asked_for := masks.asked(row):
            case.about["asked"] = asked_for
        if generators.checked:
            case.about["quality"] = records[-1]
        inputs = model | dict(data_digests(sources[used] for used in sorted(masks.uses(row))))
        case.about.update(case=name, **args.of, made=made | {"row": row, "inputs": inputs})
        write_case(args.out / name, case)
    if generators.checked:
        write_json(args.out / "attempts.json", args.of | {"attempts": records})
        rejected = [args.of | row for row in rejected_rows(records)]
        write_table(args.out / "rejected.tsv", rejected, [*args.of, *REJECTED_COLUMNS])
