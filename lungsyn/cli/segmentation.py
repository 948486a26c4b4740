"""Verbs of the segmentation: cases to trained segmenters, and what those find."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lungsyn.cli.arguments import (
    add,
    add_compute,
    add_numbers,
    add_of,
    case_folders,
    checkpoints_of,
    cost_since,
    known_cost,
    section,
    verb,
)
from lungsyn.errors import InputError
from lungsyn.hosts import is_host
from lungsyn.provenance import model_facts, note
from lungsyn.random import seed_of
from lungsyn.registry import family
from lungsyn.seams import Run
from lungsyn.settings.arms import Found, Mixing, Use
from lungsyn.settings.checking import from_json
from lungsyn.settings.segmenters import DEFAULT_KIND, inference_model
from lungsyn.volume.files import Case, data_digests, read_json, whole, whole_case, write_json_lines
from lungsyn.volume.tables import read_table, write_table


def replicate_seed(seed: int, replicate: int, reseeded: bool) -> int:
    """The seed of a replicate, the same in every arm (so arms are paired), another one in a reseeded control."""
    return seed_of(seed, "replicate", replicate, int(reseeded))


def _train_segmenter_arguments(parser):
    parser.add_argument("--kind", default=DEFAULT_KIND, help="family of the segmenter")
    parser.add_argument("--segmenter", required=True, metavar="JSON", help="settings of its family")
    add_of(parser, "segmenter", "arm", "size", "replicate")
    add_numbers(parser, "seed")
    parser.add_argument("--reseeded", action="store_true", help="other random draws than the other arms (control)")
    parser.add_argument("--cases", nargs="*", type=Path, default=[], help="real cases")
    parser.add_argument("--synthetic", nargs="*", type=Path, default=[], help="synthetic cases")
    parser.add_argument("--synthetic-share", type=float, help="of the training patches; without: by number of cases")
    parser.add_argument("--pretrain", type=float, help="fraction of the steps, the first ones, on synthetic cases only")
    parser.add_argument("--mixing", type=section(Mixing), metavar="JSON", help="how patches of two cases are mixed")
    parser.add_argument(
        "--match-noise", type=json.loads, default=False, metavar="JSON", help="true: as real cases have"
    )
    parser.add_argument("--found", type=section(Found), metavar="JSON", help="which synthetic cases are used")
    parser.add_argument("--finds", type=Path, help="the table of what is found in them, by which they are chosen")
    add(parser, "checkpoints", "model", "curve")
    add_compute(parser)


@verb("segmentation", "train", _train_segmenter_arguments, recipe=1, seams=("segmenters",))
def segmentation_train(args) -> dict:
    """Train one replicate of a segmenter on the given cases, real or synthetic."""
    from lungsyn import checkpoint

    own = family("segmenters", args.kind)
    settings = from_json(own.Settings, args.segmenter)
    real, synthetic = (whole(case_folders(paths)) for paths in (args.cases, args.synthetic))
    if hosts := [folder.name for folder in real if is_host(read_json(folder / "case.json"))]:
        raise InputError(f"{hosts[0]} is a host, of whose lesions nothing is known: leave it out of --cases")
    use = Use(**{key: getattr(args, key) for key in Use.model_fields})
    if args.found:
        synthetic = _used(synthetic, args)
    seed, started = replicate_seed(args.seed, args.of["replicate"], args.reseeded), time.monotonic()
    run = Run(seed, args.compute, checkpoints_of(args, args.kind))
    trained = own.fit(real, synthetic, use, settings, run)
    made = note(
        (*args.rule, args.kind), of=args.of, kind=args.kind, segmenter=settings, seed=seed,
        synthetic_share=args.synthetic_share, **use.model_dump(mode="json", include=use.ways), found=args.found,
        cases=[folder.name for folder in real], synthetic=[folder.name for folder in synthetic],
        inputs=dict(data_digests([*real, *synthetic])),
        cost=cost_since(started),
    ) | trained.facts  # fmt: skip
    checkpoint.save(args.model, trained.tensors, made)
    write_json_lines(args.curve, [args.of | record for record in trained.records])
    return known_cost(made)


def _used(synthetic: list[Path], args) -> list[Path]:
    """The synthetic cases that the arm uses, by what the benchmark finds in them."""
    from lungsyn.found import COLUMNS, used

    if args.finds is None:
        raise InputError("--finds is missing: --found chooses among synthetic cases by that table")
    rows = read_table(args.finds, COLUMNS)
    kept = used(synthetic, {row["case"]: float(row["dice"]) for row in rows}, args.found)
    print(f"{len(set(kept))} of {len(synthetic)} synthetic cases are used: the benchmark finds them", flush=True)
    return kept


def _models_arguments(parser):
    parser.add_argument("--inference", required=True, metavar="JSON", help="settings of prediction")
    add(parser, "models", "cases", nargs="+")
    add(parser, "replicates", type=str, nargs="+")  # which the models are, in their order
    add_compute(parser)
    add(parser, "out")


def _predict_arguments(parser):
    add_of(parser, "segmenter", "arm", "size")
    _models_arguments(parser)


@verb("segmentation", "predict", _predict_arguments, recipe=2, seams=("segmenters",))
def segmentation_predict(args) -> None:
    """Segment cases with every replicate of an arm: OUT/{replicate}/{case}.nii.gz, and a table that lists them."""
    from lungsyn.volume.files import write_volume
    from lungsyn.volume.predictions import write_predictions
    from lungsyn.volume.space import Volume

    files = []
    for case, name, percents in _predicted(args):
        for replicate, percent in percents.items():
            files.append((replicate, name, args.out / replicate / f"{name}.nii.gz"))
            write_volume(files[-1][-1], Volume(percent, case.affine))
    write_predictions(args.out, args.of, files)


def _find_arguments(parser):
    add_of(parser, "set", "size")
    _models_arguments(parser)


@verb("segmentation", "find", _find_arguments, recipe=1, seams=("segmenters",))
def segmentation_find(args) -> None:
    """Ask a segmenter what it finds in synthetic cases: a table with the Dice of each."""
    from lungsyn.found import COLUMNS, found_dice

    rows = [
        {**args.of, "case": name, "dice": f"{found_dice(percents, case):.4f}"}
        for case, name, percents in _predicted(args)
    ]
    write_table(args.out, rows, [*args.of, *COLUMNS])


def _predicted(args) -> Iterator[tuple[Case, str, dict[str, np.ndarray]]]:
    """Each case, its name and what every replicate predicts of it. Raises InputError for models that are not of one
    segmenter."""
    from lungsyn.volume.near import near_lungs

    kinds = {_kind_of(model) for model in args.models}
    kind = kinds.pop()
    if kinds:
        raise InputError(f"--models are of the kinds {kind} and {', '.join(kinds)}: name those of one segmenter")
    inference = from_json(inference_model(kind), args.inference)
    load = family("segmenters", kind).load
    if len(args.replicates) != len(args.models):
        raise InputError(f"{len(args.models)} models of {len(args.replicates)} replicates: name the replicate of each")
    segmenters = {
        replicate: load(model, args.compute, inference)
        for replicate, model in zip(args.replicates, args.models, strict=True)
    }
    folders = case_folders(args.cases)
    found = [segmenter.predict_each(folders) for segmenter in segmenters.values()]
    for folder, *of_case in zip(folders, *found, strict=True):
        case = whole_case(folder)
        near = near_lungs(case) if inference.keep_lungs else True
        for percent in of_case:
            _check(percent, case)
        percents = [np.where(near, percent, np.uint8(0)) for percent in of_case]
        yield case, folder.name, dict(zip(segmenters, percents, strict=True))


def _kind_of(model: Path) -> str:
    """The family of a model file. Raises InputError naming it."""
    facts = model_facts(model)
    if "segmenter" not in facts:
        raise InputError(f"{model}: a model of lungsyn, but not a segmenter")
    return facts.get("kind", DEFAULT_KIND)


def _check(percent: np.ndarray, case: Case) -> None:
    """Raises InputError where what a segmenter says of a case is no percentage of each voxel."""
    if (percent.dtype, percent.shape) != (np.uint8, case.ct.shape) or percent.max(initial=0) > 100:
        raise InputError(
            f"{case.about['case']}: the segmenter predicted {percent.dtype} of shape {percent.shape}, up to "
            f"{percent.max(initial=0)}: it must be uint8, 0 to 100, of the case's shape {case.ct.shape}"
        )
