"""Verbs of the evaluation: predictions to tables, pictures and the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from lungsyn.cli.arguments import (
    add,
    add_numbers,
    add_of,
    add_section,
    attempts,
    case_folders,
    rejected_picture,
    verb,
)
from lungsyn.errors import InputError
from lungsyn.folds import columns_of, folds_in, in_fold
from lungsyn.provenance import versions
from lungsyn.settings.audit import Probing
from lungsyn.settings.evaluation import Drawing, Evaluation
from lungsyn.settings.section import as_json
from lungsyn.settings.study import Benchmark, Config, Study
from lungsyn.volume.files import open_case, read_json, read_written, whole_case, write_json, write_text
from lungsyn.volume.tables import grouped, read_table, write_table


def _score_arguments(parser):
    add(parser, "predictions", "cohort", "out", "nodules", "points")
    add(parser, "cases", nargs="+")
    parser.add_argument(
        "--choice", type=Path, nargs="*", default=[], help="the frozen choice, without which the test is not scored"
    )


@verb("evaluation", "score", _score_arguments, recipe=2)
def evaluation_score(args) -> dict:
    """Measure every prediction of an arm, and the replicates' mean: per case, per nodule, and points of the FROC."""
    from lungsyn.evaluation.choice import read_choice
    from lungsyn.evaluation.froc import POINT_COLUMNS
    from lungsyn.evaluation.scores import NODULE_COLUMNS, OF, SCORE_COLUMNS, score_arm
    from lungsyn.volume.predictions import of_case, read_predictions

    for path in args.choice:
        read_choice(path)
    predictions, tables = read_predictions(args.predictions), ([], [], [])
    of = {key: predictions[0][key] for key in (*OF, "fold") if key in predictions[0]}
    fold = of.get("fold")
    cohort = read_table(args.cohort, ["case", columns_of([fold])[0]])
    split = {row["case"]: row["split"] for row in in_fold(cohort, fold)}
    for folder in case_folders(args.cases):
        if folder.name not in split:
            raise InputError(f"{args.cohort} lists no case {folder.name!r}: give the table of the same cohort")
        percents = {name: read_written(path).data for name, path in of_case(predictions, folder.name).items()}
        for table, rows in zip(tables, score_arm(percents, whole_case(folder), split[folder.name]), strict=True):
            table += [of | row for row in rows]
    for path, rows, columns in zip(
        (args.out, args.nodules, args.points), tables, (SCORE_COLUMNS, NODULE_COLUMNS, POINT_COLUMNS), strict=True
    ):
        write_table(path, rows, [*of, *columns])
    return of


def _choose_arguments(parser):
    add(parser, "cohort", "scores", "out")
    add(parser, "predictions", "cases", nargs="+")
    parser.add_argument("--recipes", required=True, type=json.loads, metavar="JSON", help="settings of what is chosen")


@verb("evaluation", "choose", _choose_arguments, recipe=1)
def evaluation_choose(args) -> None:
    """Choose segmenter and arm by their Dice on validation cases alone, and freeze the choice."""
    from lungsyn.evaluation.choice import choose, was_opened
    from lungsyn.evaluation.dice import dice
    from lungsyn.evaluation.scores import OF, nodule_mask
    from lungsyn.volume.predictions import of_case, read_predictions

    opened = was_opened(path for path in args.scores.glob("*/*/*.tsv") if path.suffixes == [".tsv"])
    cohort, found = read_table(args.cohort), {}
    folders = {folder.name: folder for folder in case_folders(args.cases)}
    for predictions in map(read_predictions, args.predictions):
        of = predictions[0]
        values = found.setdefault(tuple(of[key] for key in OF), [])
        for row in in_fold(cohort, of.get("fold")):
            if row["split"] == "validation" and row["case"] in folders:
                truth = whole_case(folders[row["case"]]).nodules != 0
                paths = of_case(predictions, row["case"]).values()
                values += [mean(dice(nodule_mask(read_written(path).data), truth) for path in paths)]
    rows = [dict(zip(OF, of, strict=True)) | {"cases": len(dices), "dice": mean(dices)} for of, dices in found.items()]
    choice = choose(rows, args.recipes, opened, folds=folds_in(cohort) != [None])
    write_json(args.out, choice)
    print(f"chosen: {choice['chosen']}, frozen as {choice['digest']}")


def _worst(scores: Mapping, benchmark: Benchmark) -> dict[int, set]:
    """The worst validation cases at each size: of `scores.read_arms` those of the benchmark's segmenter and arm."""
    from lungsyn.evaluation.groups import worst_of_folds

    return {
        size: worst_of_folds(arms[benchmark.arm], benchmark.worst_cases)
        for (segmenter, size), arms in scores.items()
        if segmenter == benchmark.segmenter
    }


def _compare_arguments(parser):
    add(parser, "scores", "nodules", "points", "benchmark-scores", nargs="+")
    add(parser, "out", "froc", "strata", "layers")
    add_section(parser, benchmark=Benchmark, evaluation=Evaluation)
    add_numbers(parser, "seed")
    parser.add_argument("--drawn-arms", nargs="*", default=[], help="arms whose replicates draw a set each")
    parser.add_argument("--drawn", default="set", help="what they draw: set or generator")


@verb("evaluation", "compare", _compare_arguments, recipe=3)
def evaluation_compare(args) -> None:
    """Compare every arm with the benchmark arm at each size: Dice paired by case, FROC, and nodules of each kind."""
    from lungsyn.evaluation import comparison, froc, scores, strata
    from lungsyn.evaluation.groups import tested
    from lungsyn.evaluation.layers import LAYER_COLUMNS

    worst, benchmark = _worst(scores.read_arms(args.benchmark_scores), args.benchmark), args.benchmark.arm
    confidence = args.evaluation.confidence
    rows = [
        {"segmenter": segmenter, **row}
        for (segmenter, size), arms in scores.read_arms(args.scores).items()
        for row in comparison.compare(arms, benchmark, worst[size], args.evaluation, size)
    ]
    write_table(args.out, rows, ["segmenter", *comparison.COMPARISON_COLUMNS])
    layer = {"set": "synthetic set", "generator": "generator and set"}[args.drawn]
    rows = [
        {"segmenter": segmenter, "size": size, **row}
        for (segmenter, size), arms in scores.read_arms(args.scores).items()
        for row in comparison.layers(arms, benchmark, args.drawn_arms, layer)
    ]
    write_table(args.layers, rows, ["segmenter", "size", *LAYER_COLUMNS])
    for out, paths, columns, rows_of, settings, made in (
        (args.froc, args.points, froc.POINT_COLUMNS, froc.froc_rows,
         (args.evaluation.bootstrap, confidence, args.seed), froc.FROC_COLUMNS),
        (args.strata, args.nodules, scores.NODULE_COLUMNS, strata.strata_rows, [confidence], strata.STRATA_COLUMNS),
    ):  # fmt: skip
        rows = [
            {"segmenter": segmenter, "size": size, **row}
            for (segmenter, size), arms in scores.read_arms(paths, columns).items()
            for row in rows_of(tested(arms), benchmark, *settings)
        ]
        write_table(out, rows, ["segmenter", "size", *made])


def _plot_arms_arguments(parser):
    add(parser, "scores", "comparisons", "frocs", "curves", "cases", nargs="+")
    add(parser, "nodules", "predictions", nargs="*")  # of figures.case_arms, wherever both are
    add(parser, "cohort", "out", "pictures")
    add_section(parser, benchmark=Benchmark, evaluation=Evaluation)
    add_section(parser, study=Study, figures=Drawing)
    parser.add_argument("--null-arms", nargs="*", default=[])


@verb("evaluation", "plot-arms", _plot_arms_arguments, recipe=2)
def evaluation_plot_arms(args) -> None:
    """Draw what came of the arms: each size at a glance, case by case, FROC, cases and nodules, loss curves."""
    from lungsyn.evaluation import data, figures, gallery, summaries
    from lungsyn.evaluation.comparison import COMPARISON_COLUMNS
    from lungsyn.evaluation.drawable import Drawable
    from lungsyn.evaluation.froc import FROC_COLUMNS
    from lungsyn.evaluation.groups import TEST
    from lungsyn.evaluation.scores import read_arms

    shown, scores = [], read_arms(args.scores)
    frame = figures.Frame(args.benchmark.arm, args.null_arms, args.study.name, args.figures.dpi)
    patients = _train_patients(args.cohort, {size for _, size in scores})
    comparison = _rows(args.comparisons, ["segmenter", *COMPARISON_COLUMNS])
    froc = _rows(args.frocs, ["segmenter", "size", *FROC_COLUMNS])

    def place(kind: str, segmenter: str = "", size: int | None = None) -> Path:
        shown.append(gallery.entry(kind, segmenter, size=size))
        return args.out / shown[-1]["file"]

    for segmenter in dict.fromkeys(segmenter for segmenter, _ in scores):
        rows = [row for row in comparison if row["segmenter"] == segmenter]
        trained_on = {size: patients[size] for name, size in scores if name == segmenter}
        out, tested = place("ladder", segmenter), [row for row in rows if row["group"] == TEST]
        summaries.plot_ladder(rows, trained_on, args.evaluation.confidence, frame, out)
        data.write_data(out, tested, COMPARISON_COLUMNS)
        if len(trained_on) > 1:
            out = place("learning", segmenter)
            summaries.plot_learning(rows, trained_on, frame, out)
            of = [row | {"train_patients": trained_on[row["size"]]} for row in tested]
            data.write_data(out, of, ["train_patients", *COMPARISON_COLUMNS])
        points, out = [row for row in froc if row["segmenter"] == segmenter], place("froc", segmenter)
        summaries.plot_froc(points, trained_on, frame, out)
        data.write_data(out, points, ["size", *FROC_COLUMNS])
    worst = _worst(scores, args.benchmark)
    drawable = Drawable(
        args.study.name, args.figures, case_folders(args.cases), args.predictions, args.nodules, args.cohort
    )
    for (segmenter, size), arms in scores.items():
        rows = [row for row in comparison if (row["segmenter"], row["size"]) == (segmenter, size)]
        out = place(gallery.MAIN, segmenter, size)
        figures.plot_dice_difference(arms, rows, worst[size], frame, out)
        data.write_data(out, data.changes(arms, args.benchmark.arm, worst[size]), data.CHANGE)
        if set(args.figures.case_arms) <= set(arms):
            drawable.plot_cases(segmenter, size, arms, place("cases", segmenter, size))
            drawable.plot_turned(segmenter, size, place("turned", segmenter, size))
    curves, out = data.read_curves(args.curves), place("training")
    figures.plot_training(curves, frame, out)
    data.write_data(out, data.losses(curves), data.LOSS)
    write_table(args.pictures, shown, gallery.COLUMNS)


def _rows(paths: Sequence[Path], columns: Sequence[str]) -> list[dict]:
    """The rows of several tables of results, one after the other."""
    from lungsyn.evaluation.scores import read_scores

    return [row for path in paths for row in read_scores(path, columns)]


def _train_patients(cohort: Path, sizes: set[int]) -> dict[int, int]:
    """Number of train patients at each training-set size (percent); with folds on average."""
    from lungsyn.cohort.split import within
    from lungsyn.hosts import is_host

    rows = [row for row in read_table(cohort) if not is_host(row)]
    counts = [
        len({row["patient"] for row in in_fold(rows, fold) if row["split"] == "train"}) for fold in folds_in(rows)
    ]
    return {size: round(mean(sum(within(rank, n, size) for rank in range(1, n + 1)) for n in counts)) for size in sizes}


def _plot_set_arguments(parser):
    add_of(parser, "set", "size")
    add(parser, "synthetic", "train", "held-out", nargs="+")
    parser.add_argument("--donors", type=Path, nargs="*", default=[], help="cases beside --train that lent it masks")
    parser.add_argument("--hosts", type=Path, nargs="*", default=[], help="train cases without marked lesions")
    add(parser, "neighbours", "fidelity", "out", "pictures")
    parser.add_argument("--reference", type=Path, help="ranges of the measures; without: nothing was judged")
    add_section(parser, audit=Probing, study=Study, figures=Drawing)


@verb("evaluation", "plot-set", _plot_set_arguments, recipe=3)
def evaluation_plot_set(args) -> None:
    """Draw a synthetic set: random cases beside real ones, the closest to a train case, its measures and distances."""
    from lungsyn.audit.figures import plot_fidelity
    from lungsyn.evaluation import data, gallery
    from lungsyn.evaluation.pictures import choose, plot_contact_sheet
    from lungsyn.evaluation.quality import plot_quality

    set_name, study = args.of["set"], args.study
    shown = {
        kind: gallery.entry(kind, set_name=set_name, size=args.of["size"], fold=args.of.get("fold"))
        for kind in ("contact_sheet", "fidelity", "quality", "nearest", "outlines")
    }
    places = {kind: args.out / row["file"] for kind, row in shown.items()}
    real, made = ({f.name: open_case(f) for f in case_folders(paths)} for paths in (args.train, args.synthetic))
    plot_contact_sheet(real, made, study.seed, study.name, args.figures, places["contact_sheet"])
    judged, found, rows = _judged(args), read_json(args.fidelity), read_table(args.neighbours)
    plot_quality(judged, set_name, study, args.figures, places["quality"])
    _plot_nearest(args, places["nearest"])
    _plot_outlines(args, places["outlines"])
    plot_fidelity(found, study.name, args.figures.dpi, places["fidelity"])
    sheet = [{"case": case, "is": what} for what, cases in (("real", real), ("synthetic", made))
             for case in choose(list(cases), args.figures.contact_cases, study.seed)]  # fmt: skip
    for kind, shown_rows, columns in (
        ("contact_sheet", sheet, data.SHEET),
        ("quality", data.measured(judged.reference, judged.records), data.MEASURE),
        ("nearest", data.probed(rows, ("nodule", "volume")), data.PROBED),
        ("outlines", data.probed(rows, ("outline",)), data.PROBED),
        ("fidelity", data.distances(found), data.FIDELITY),
    ):
        data.write_data(places[kind], shown_rows, columns)
    telling = [row for kind, row in shown.items() if kind != "quality" or args.reference]  # else it shows nothing
    write_table(args.pictures, telling, gallery.COLUMNS)


def _judged(args):
    """What the quality control saw of a set: nothing where nothing was judged."""
    from lungsyn.evaluation.quality import Judged
    from lungsyn.volume.files import read_arrays

    if not args.reference:
        return Judged()
    pictures = {
        (record["volume"], record["attempt"]): read_arrays(folder / rejected_picture(record))
        for folder in args.synthetic
        for record in attempts([folder])
        if record["faults"]
    }
    return Judged(read_json(args.reference), attempts(args.synthetic), pictures)


def _audited(args) -> list[Path]:
    """The cases that the audit compared."""
    return case_folders([*args.synthetic, *args.train, *args.hosts, *args.held_out])


def _plot_nearest(args, out: Path) -> None:
    """The synthetic cases that are closest to train cases, beside held-out ones."""
    from lungsyn.audit import probes
    from lungsyn.audit.pictures import Cubes, plot_nearest

    folders = _audited(args)
    places = {kind: {place.name: place for place in probes.find_places(kind, folders)} for kind in probes.KINDS}
    cutters = {kind: probes.choose_cutter(kind, list(found.values()), args.audit) for kind, found in places.items()}
    cubes, rows = Cubes(places, cutters, args.audit.max_shift_voxels), read_table(args.neighbours)
    plot_nearest(rows, cubes, args.of["set"], args.study.name, args.figures, out)


def _plot_outlines(args, out: Path) -> None:
    """Outlines of the synthetic cases over those of the nearest train cases."""
    from lungsyn.audit.pictures import plot_outlines

    folders = {f.name: f for f in [*_audited(args), *case_folders(args.donors)]}
    plot_outlines(read_table(args.neighbours), folders, args.of["set"], args.study.name, args.figures, out)


def _report_arguments(parser):
    add_section(parser, config=Config)
    add(parser, "cohort", "main-figure", "text", "cost-table", "out")
    add(parser, "comparisons", "strata", "layers", "pictures", "costs", nargs="+")
    add(parser, "verdicts", "quality", "masks", "sets", "uses", nargs="*")
    parser.add_argument("--viewer", help="the viewer's page, as the report links to it; without: no link")
    parser.add_argument("--choice", type=Path, nargs="*", default=[], help="what was frozen before the test was scored")


@verb("evaluation", "report", _report_arguments, recipe=3)
def evaluation_report(args) -> None:
    """Put everything on one HTML page, and its comparison tables in a text; copy the main figure to its short name."""
    import shutil

    from lungsyn import costs
    from lungsyn.evaluation import sets
    from lungsyn.evaluation.choice import read_choice
    from lungsyn.evaluation.comparison import COMPARISON_COLUMNS, as_text, by_training
    from lungsyn.evaluation.gallery import read_pictures
    from lungsyn.evaluation.layers import LAYER_COLUMNS
    from lungsyn.evaluation.report import Findings, build
    from lungsyn.evaluation.strata import STRATA_COLUMNS
    from lungsyn.volume.files import whole_file

    study, spent = args.config.title, costs.read_costs(args.costs)
    pictures = read_pictures(args.pictures, args.config.benchmark.segmenter)
    comparisons = by_training(_rows(args.comparisons, ["segmenter", *COMPARISON_COLUMNS]))
    found = Findings(
        comparisons=comparisons,
        strata=grouped(_rows(args.strata, ["segmenter", "size", *STRATA_COLUMNS]), "{segmenter}"),
        layers=by_training(_rows(args.layers, ["segmenter", "size", *LAYER_COLUMNS])),
        cohort=read_table(args.cohort),
        pictures=pictures,
        verdicts=[read_json(path) for path in args.verdicts],
        quality=grouped(
            [row for path in args.quality for row in read_table(path)], "{set}, size {size} %", "fold {fold}"
        ),
        masks=grouped([row for path in args.masks for row in read_table(path)], "{set}, size {size} %", "fold {fold}"),
        sets=_rows(args.sets, sets.COLUMNS),
        uses=_rows(args.uses, sets.USE_COLUMNS),
        versions=versions(),
        costs=costs.totals(spent),
        viewer=args.viewer,
        choice=read_choice(args.choice[0]) if args.choice else None,
    )
    with whole_file(args.main_figure) as temporary:
        shutil.copyfile(pictures[0]["file"], temporary)
    write_table(args.cost_table, spent, list(dict.fromkeys([*costs.COLUMNS, *spent[0]])))
    draws = args.config.replicates_draw
    tables = [as_text(rows, f"{study.name}, segmenter {title}", draws) for title, rows in comparisons.items()]
    write_text(args.text, "\n\n".join(tables) + "\n")
    write_text(args.out, build(f"{study.name}: does synthetic data help?", _shown(args.config), found))


def _shown(study: Config) -> str:
    """The config as JSON, less what says nothing of the study, and the place of data whose names are not public."""
    if not study.cohort.readable:
        study = study.model_copy(update={"cohort": study.cohort.model_copy(update={"root": None})})
    return as_json(study, without={"compute"})


def _answer_arguments(parser):
    parser.add_argument("results", nargs="?", type=Path, default=Path("results"))


@verb("evaluation", "answer", _answer_arguments)
def evaluation_answer(args) -> None:
    """Print the comparison tables of a finished run and where its pictures are."""
    text = args.results / "answer.txt"
    if not text.exists():
        print(f"{args.results}: no comparison yet, as after a dry run or a run of some files")
        return
    print(text.read_text(encoding="utf-8"))
    print(f"report: {args.results / 'report.html'}\nfigure: {args.results / 'figures' / 'dice_difference.png'}")
    if (viewer := args.results / "viewer" / "index.html").exists():
        print(f"viewer: {viewer}")
