"""Verbs of the evaluation: predictions to tables, pictures and the report."""

import json
from collections.abc import Sequence
from pathlib import Path

from lungsyn.cli.arguments import add, add_numbers, add_section, attempts, case_folders, verb
from lungsyn.errors import InputError
from lungsyn.provenance import versions
from lungsyn.settings.audit import Probing
from lungsyn.settings.evaluation import Evaluation, Figures
from lungsyn.settings.section import as_json
from lungsyn.settings.study import Benchmark, Config, Study
from lungsyn.volume.files import map_volume, open_case, read_json, read_written, whole_case, write_text
from lungsyn.volume.tables import read_table, write_table


def _score_arguments(parser):
    add(parser, "predictions", "cohort", "out", "nodules", "points")
    add(parser, "cases", nargs="+")


@verb("evaluation", "score", _score_arguments, recipe=1)
def evaluation_score(args) -> None:
    """Measure every prediction of an arm, and the replicates' mean: per case, per nodule, and points of the FROC."""
    from lungsyn.evaluation.froc import POINT_COLUMNS
    from lungsyn.evaluation.scores import NODULE_COLUMNS, SCORE_COLUMNS, score_arm

    split = {row["case"]: row["split"] for row in read_table(args.cohort, ["case", "split"])}
    tables = [], [], []
    for folder in case_folders(args.cases):
        if folder.name not in split:
            raise InputError(f"{args.cohort} lists no case {folder.name!r}: give the table of the same cohort")
        percents = {
            path.parent.name: read_written(path).data for path in sorted(args.predictions.glob(f"*/{folder.name}.nii"))
        }
        for table, rows in zip(tables, score_arm(percents, whole_case(folder), split[folder.name]), strict=True):
            table += rows
    for path, rows, columns in zip(
        (args.out, args.nodules, args.points), tables, (SCORE_COLUMNS, NODULE_COLUMNS, POINT_COLUMNS), strict=True
    ):
        write_table(path, rows, columns)


def _by_size(paths: list[Path], columns: Sequence[str] | None = None) -> dict[int, dict[str, list[dict]]]:
    """The tables ``.../{arm}/{size}.*`` of one segmenter (without ``columns``: of scores): {size: {arm: rows}}."""
    from lungsyn.evaluation.scores import SCORE_COLUMNS, read_scores

    tables: dict[int, dict[str, list[dict]]] = {}
    for path in paths:
        size = int(path.name.split(".")[0])
        tables.setdefault(size, {})[path.parent.name] = read_scores(path, columns or SCORE_COLUMNS)
    return tables


def _tested(arms: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The rows of the test cases only."""
    from lungsyn.evaluation.groups import TEST

    return {arm: [row for row in rows if row["split"] == TEST] for arm, rows in arms.items()}


def _worst(paths: list[Path], benchmark: Benchmark) -> dict[int, list[str]]:
    """The worst validation cases at each size, from score tables of the benchmark's segmenter."""
    from lungsyn.evaluation.groups import worst_cases

    return {size: worst_cases(arms[benchmark.arm], benchmark.worst_cases) for size, arms in _by_size(paths).items()}


def _compare_arguments(parser):
    add(parser, "scores", "nodules", "points", "benchmark-scores", nargs="+")
    add(parser, "out", "froc", "strata")
    add_section(parser, benchmark=Benchmark, evaluation=Evaluation)
    add_numbers(parser, "seed")


@verb("evaluation", "compare", _compare_arguments, recipe=1)
def evaluation_compare(args) -> None:
    """Compare every arm with the benchmark arm at each size: Dice paired by case, FROC, and nodules of each kind."""
    from lungsyn.evaluation import comparison, froc, scores, strata

    worst = _worst(args.benchmark_scores, args.benchmark)
    rows = []
    for size, arms in _by_size(args.scores).items():
        rows += comparison.compare(arms, args.benchmark.arm, worst[size], args.evaluation, size)
    write_table(args.out, rows, comparison.COMPARISON_COLUMNS)
    benchmark, confidence = args.benchmark.arm, args.evaluation.confidence
    drawn = args.evaluation.bootstrap, confidence, args.seed
    for out, paths, columns, rows_of, settings, made in (
        (args.froc, args.points, froc.POINT_COLUMNS, froc.froc_rows, drawn, froc.FROC_COLUMNS),
        (args.strata, args.nodules, scores.NODULE_COLUMNS, strata.strata_rows, [confidence], strata.STRATA_COLUMNS),
    ):
        tables = _by_size(paths, columns)
        rows = [
            {"size": size, **row}
            for size, arms in tables.items()
            for row in rows_of(_tested(arms), benchmark, *settings)
        ]
        write_table(out, rows, ["size", *made])


def _plot_arms_arguments(parser):
    add(parser, "scores", "comparisons", "frocs", "curves", "cases", nargs="+")
    add(parser, "nodules", "predictions", nargs="*")  # of figures.case_arms, wherever both are
    add(parser, "cohort", "out")
    add_section(parser, benchmark=Benchmark, evaluation=Evaluation)
    add_section(parser, study=Study, figures=Figures)
    parser.add_argument("--null-arms", nargs="*", default=[])


@verb("evaluation", "plot-arms", _plot_arms_arguments, recipe=1)
def evaluation_plot_arms(args) -> None:
    """Draw what came of the arms: each size at a glance, case by case, FROC, cases and nodules, loss curves."""
    from lungsyn.evaluation import figures, summaries
    from lungsyn.evaluation.comparison import COMPARISON_COLUMNS
    from lungsyn.evaluation.froc import FROC_COLUMNS
    from lungsyn.evaluation.scores import read_scores

    compared, titled = (args.benchmark.arm, args.null_arms), (args.study.name, args.figures.dpi)
    worst = _worst(_of(args.benchmark.segmenter, args.scores), args.benchmark)
    for table, froc in zip(args.comparisons, args.frocs, strict=True):
        segmenter, rows = table.stem, read_scores(table, COMPARISON_COLUMNS)
        scores = _by_size(_of(segmenter, args.scores))
        patients, confidence = _train_patients(args.cohort, set(scores)), args.evaluation.confidence
        summaries.plot_ladder(rows, patients, *compared, confidence, *titled, args.out / f"ladder-{segmenter}.png")
        if len(scores) > 1:
            summaries.plot_learning(rows, patients, *compared, *titled, args.out / f"learning-{segmenter}.png")
        points = read_scores(froc, ["size", *FROC_COLUMNS])
        summaries.plot_froc(points, patients, *compared, *titled, args.out / f"froc-{segmenter}.png")
        for size, arms in scores.items():
            of_size, name = [row for row in rows if row["size"] == size], f"{segmenter}-{size}.png"
            out = args.out / f"dice_difference-{name}"
            figures.plot_dice_difference(arms, of_size, worst[size], *compared, *titled, out)
            if set(args.figures.case_arms) <= set(arms):
                _plot_cases(args, segmenter, size, arms, args.out / f"cases-{name}")
                _plot_turned(args, segmenter, size, args.out / f"turned-{name}")
    figures.plot_training(_curves(args.curves), *compared, *titled, args.out / "training.png")


def _of(segmenter: str, paths: list[Path]) -> list[Path]:
    """Those of one segmenter, of paths .../{segmenter}/{arm}/{size}."""
    return [path for path in paths if path.parts[-3] == segmenter]


def _train_patients(cohort: Path, sizes: set[int]) -> dict[int, int]:
    """Number of train patients at each training-set size (percent)."""
    from lungsyn.cohort.split import within

    n = len({row["patient"] for row in read_table(cohort) if row["split"] == "train"})
    return {size: sum(within(rank, n, size) for rank in range(1, n + 1)) for size in sizes}


def _drawn(args, segmenter: str, size: int, name: str, words: str):
    """A case to draw, with the predictions of both arms (of ``figures.case_arms``) as memory maps."""
    from lungsyn.evaluation.pictures import Drawn

    folder = next(folder for folder in case_folders(args.cases) if folder.name == name)
    of_arm = {path.parent.name: path for path in _of(segmenter, args.predictions) if path.name == str(size)}
    predictions = {
        arm: [map_volume(path).data for path in sorted(of_arm[arm].glob(f"*/{name}.nii"))]
        for arm in args.figures.case_arms
    }
    return Drawn(open_case(folder), predictions, words)


def _plot_cases(args, segmenter: str, size: int, scores: dict[str, list[dict]], out: Path) -> None:
    """The test cases of best, median and worst change with every replicate's contour for two arms."""
    from lungsyn.evaluation.groups import case_means, chosen_changes
    from lungsyn.evaluation.pictures import plot_cases

    first, second = args.figures.case_arms
    dice = {arm: case_means(scores[arm], "dice") for arm in (first, second)}
    chosen = chosen_changes(scores, second, first)
    drawn = [
        _drawn(args, segmenter, size, name, f"{rule} {dice[second][name] - dice[first][name]:+.2f}\n{name}")
        for name, rule in chosen.items()
    ]
    values = [{arm: means[name] for arm, means in dice.items()} for name in chosen]
    plot_cases(drawn, values, args.study.name, args.figures, out)


def _plot_turned(args, segmenter: str, size: int, out: Path) -> None:
    """The test nodules that most replicates of one arm found and most of the other missed."""
    from lungsyn.evaluation.pictures import MOST_TURNED, plot_turned
    from lungsyn.evaluation.scores import NODULE_COLUMNS
    from lungsyn.evaluation.strata import turned

    arms = _tested(_by_size(_of(segmenter, args.nodules), NODULE_COLUMNS)[size])
    found = turned(*(arms[arm] for arm in args.figures.case_arms))
    drawn = [
        [(_drawn(args, segmenter, size, row["case"], f"{row['diameter_mm']:.1f} mm\n{row['case']}"), row["nodule"])
         for row in rows[:MOST_TURNED]]
        for rows in found
    ]  # fmt: skip
    totals = len(found[0]), len(found[1])
    plot_turned(*drawn, totals, args.figures.case_arms, args.study.name, args.figures, out)


def _curves(paths: list[Path]) -> dict[str, dict[str, list[dict]]]:
    """Loss curves by what was trained: .../generator/{generator}/{size}/, .../{segmenter}/{arm}/{size}/{replicate}/"""
    panels: dict[str, dict[str, list[dict]]] = {}
    for path in paths:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        parts = path.parent.parts
        if "generator" in parts:
            panels.setdefault("generator", {})["/".join((*parts[-2:], "0"))] = records  # one training of each
        else:
            panels.setdefault(f"segmenter {parts[-4]}", {})["/".join(parts[-3:])] = records
    return panels


def _plot_set_arguments(parser):
    add(parser, "synthetic", "train", "held-out", nargs="+")
    add(parser, "neighbours", "fidelity", "out")
    parser.add_argument("--reference", type=Path, help="ranges of the measures; without: nothing was judged")
    parser.add_argument("--set", required=True, help="name of the synthetic set")
    add_numbers(parser, "size")
    add_section(parser, audit=Probing, study=Study, figures=Figures)


@verb("evaluation", "plot-set", _plot_set_arguments, recipe=1)
def evaluation_plot_set(args) -> None:
    """Draw a synthetic set: random cases beside real ones, the closest to a train case, its measures and distances."""
    from lungsyn.audit.figures import plot_fidelity
    from lungsyn.evaluation.pictures import plot_contact_sheet
    from lungsyn.evaluation.quality import plot_quality
    from lungsyn.volume.files import read_arrays

    name = f"{args.set}-{args.size}.png"
    real, made = ({f.name: open_case(f) for f in case_folders(paths)} for paths in (args.train, args.synthetic))
    out = args.out / f"contact_sheet-{name}"
    plot_contact_sheet(real, made, args.study.seed, args.study.name, args.figures, out)
    ranges, records = (read_json(args.reference), attempts(args.synthetic)) if args.reference else ({"values": {}}, [])
    rejected = {p.stem: read_arrays(p) for folder in args.synthetic for p in sorted(folder.glob("rejected/*.npz"))}
    title = f"Quality control of set {args.set}"
    plot_quality(ranges, records, rejected, title, args.study, args.figures, args.out / f"quality-{name}")
    _plot_nearest(args, args.out / f"nearest-{name}")
    plot_fidelity(read_json(args.fidelity), args.study.name, args.figures.dpi, args.out / f"fidelity-{name}")


def _plot_nearest(args, out: Path) -> None:
    """The synthetic cases that are closest to train cases, beside held-out ones."""
    from lungsyn.audit import probes
    from lungsyn.audit.pictures import plot_nearest

    folders = case_folders([*args.synthetic, *args.train, *args.held_out])
    places = {kind: {place.name: place for place in probes.find_places(kind, folders)} for kind in probes.KINDS}
    cutters = {kind: probes.choose_cutter(kind, list(found.values()), args.audit) for kind, found in places.items()}
    shift, rows = args.audit.max_shift_voxels, read_table(args.neighbours)
    plot_nearest(rows, places, cutters, shift, args.study.name, args.set, args.figures, out)


def _drawn_from(path: Path) -> str:
    """What a figure shows, from its name: .../{figure}-{segmenter or set}[-{size}].png"""
    rest = path.stem.partition("-")[2]
    name, _, size = rest.rpartition("-")
    return f"{name}, {size} % of the train patients" if name and size.isdigit() else rest


def _report_arguments(parser):
    add_section(parser, config=Config)
    add(parser, "cohort", "main-figure", "text", "out")
    add(parser, "comparisons", "strata", "pictures", nargs="+")
    add(parser, "verdicts", "quality", nargs="*")


@verb("evaluation", "report", _report_arguments, recipe=1)
def evaluation_report(args) -> None:
    """Put everything on one HTML page, and its comparison tables in a text; copy the main figure, the first of the
    pictures, to its short name."""
    import shutil

    from lungsyn.evaluation.comparison import COMPARISON_COLUMNS, as_text, by_size
    from lungsyn.evaluation.report import CAPTIONS, build
    from lungsyn.evaluation.scores import read_scores
    from lungsyn.evaluation.strata import STRATA_COLUMNS
    from lungsyn.provenance import costs
    from lungsyn.volume.files import whole_file

    study = args.config.title
    figures = [(path, CAPTIONS[path.stem.partition("-")[0]].format(_drawn_from(path))) for path in args.pictures]
    comparisons = {}
    for path in args.comparisons:
        comparisons |= by_size(read_scores(path, COMPARISON_COLUMNS), path.stem)
    strata = {path.name.split(".")[0]: read_scores(path, ["size", *STRATA_COLUMNS]) for path in args.strata}
    provenance = {"versions": versions(), "cost": costs(args.out.parent)}
    page = build(
        f"{study.name}: does synthetic data help?", _shown(args.config), comparisons, strata,
        read_table(args.cohort), figures, provenance, [read_json(path) for path in args.verdicts],
        {f"{path.parent.name}, size {path.stem} %": read_table(path) for path in args.quality},
    )  # fmt: skip
    with whole_file(args.main_figure) as temporary:
        shutil.copyfile(args.pictures[0], temporary)
    tables = [as_text(rows, f"{study.name}, segmenter {title}") for title, rows in comparisons.items()]
    write_text(args.text, "\n\n".join(tables) + "\n")
    write_text(args.out, page)


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
