"""The verb that puts synthetic sets side by side."""

from lungsyn.cli.arguments import add, add_section, section, verb
from lungsyn.settings.arms import Arm
from lungsyn.settings.evaluation import Drawing
from lungsyn.settings.section import Name
from lungsyn.settings.study import Benchmark, Study
from lungsyn.volume.files import read_json
from lungsyn.volume.tables import write_table


def _plot_sets_arguments(parser):
    add_section(parser, benchmark=Benchmark, study=Study, figures=Drawing)
    parser.add_argument("--arms", required=True, type=section(dict[Name, Arm]), help="all arms of the config, as JSON")
    add(parser, "verdicts", "fidelity", "comparisons", "costs", nargs="+")
    add(parser, "out", "pictures", "sets", "uses")


@verb("evaluation", "plot-sets", _plot_sets_arguments, recipe=1)
def evaluation_plot_sets(args) -> None:
    """Put the synthetic sets side by side: how real, useful, private and dear each is; one table, one picture."""
    from lungsyn.costs import read_costs
    from lungsyn.evaluation import gallery, sets
    from lungsyn.evaluation.comparison import COMPARISON_COLUMNS
    from lungsyn.evaluation.data import write_data
    from lungsyn.evaluation.scores import read_scores

    costs = read_costs(args.costs)
    rows = sets.over_folds(
        sets.set_row(read_json(verdict), read_json(fidelity), costs)
        for verdict, fidelity in zip(args.verdicts, args.fidelity, strict=True)
    )
    compared = [row for path in args.comparisons for row in read_scores(path, ["segmenter", *COMPARISON_COLUMNS])]
    uses = sets.use_rows(compared, args.arms, args.benchmark.arm)
    shown = gallery.entry("sets")
    out = args.out / shown["file"]
    points = sets.points_of(rows, uses)
    sets.plot_sets(points, args.study.name, args.figures.dpi, out)
    write_data(out, points, sets.POINT)
    write_table(args.sets, rows, sets.COLUMNS)
    write_table(args.uses, uses, sets.USE_COLUMNS)
    write_table(args.pictures, [shown], gallery.COLUMNS)
