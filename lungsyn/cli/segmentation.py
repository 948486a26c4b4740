"""Verbs of the segmentation: cases to trained segmenters, and what those find."""

from pathlib import Path

from lungsyn.cli.arguments import add, add_compute, add_numbers, add_section, case_folders, checkpoints_of, verb
from lungsyn.provenance import note
from lungsyn.settings.segmenters import Inference, Segmenter
from lungsyn.volume.files import data_digests, whole, whole_case, write_json_lines


def _train_segmenter_arguments(parser):
    add_section(parser, segmenter=Segmenter)
    add_numbers(parser, "seed", "replicate")
    parser.add_argument("--reseeded", action="store_true", help="other random draws than the other arms (control)")
    parser.add_argument("--cases", nargs="*", type=Path, default=[], help="real cases")
    parser.add_argument("--synthetic", nargs="*", type=Path, default=[], help="synthetic cases")
    parser.add_argument("--synthetic-share", type=float, help="of the training patches; without: by number of cases")
    add(parser, "checkpoints", "model", "curve")
    add_compute(parser)


@verb("segmentation", "train", _train_segmenter_arguments, recipe=1)
def segmentation_train(args) -> None:
    """Train one replicate of a segmenter on the given cases, real or synthetic."""
    from lungsyn import checkpoint
    from lungsyn.segmentation.training import replicate_seed, train

    real, synthetic = (whole(case_folders(paths)) for paths in (args.cases, args.synthetic))
    seed = replicate_seed(args.seed, args.replicate, args.reseeded)
    weights, facts, records = train(
        real, synthetic, args.synthetic_share, args.segmenter, args.compute, seed, checkpoints_of(args)
    )
    made = note(
        args.rule, segmenter=args.segmenter, seed=seed, synthetic_share=args.synthetic_share,
        cases=[folder.name for folder in real], synthetic=[folder.name for folder in synthetic],
        inputs=dict(data_digests([*real, *synthetic])),
    ) | facts  # fmt: skip
    checkpoint.save(args.model, weights, made)
    write_json_lines(args.curve, records)


def _predict_arguments(parser):
    add_section(parser, inference=Inference)
    add(parser, "models", "cases", nargs="+")
    add_compute(parser)
    add(parser, "out")


@verb("segmentation", "predict", _predict_arguments, recipe=1)
def segmentation_predict(args) -> None:
    """Segment cases with every replicate of an arm: OUT/{replicate}/{case}.nii."""
    from lungsyn.segmentation.prediction import load_segmenter, near_lungs, predict
    from lungsyn.volume.files import write_volume
    from lungsyn.volume.space import Volume

    segmenters = {model.parent.name: load_segmenter(model, args.compute) for model in args.models}
    for folder in case_folders(args.cases):
        case = whole_case(folder)
        near = near_lungs(case) if args.inference.keep_lungs else None
        for replicate, segmenter in segmenters.items():
            percent = predict(segmenter, case, args.inference, near)
            write_volume(args.out / replicate / f"{folder.name}.nii", Volume(percent, case.affine))
