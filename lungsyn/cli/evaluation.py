"""Verbs of the evaluation: predictions to tables, pictures and the report."""

import json
from pathlib import Path

from lungsyn import config
from lungsyn.cli.arguments import add, add_numbers, add_section, case_folders, verb
from lungsyn.provenance import versions
from lungsyn.volume.files import map_volume, open_case, read_json, read_volume, write_text
from lungsyn.volume.tables import read_table, write_table


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
