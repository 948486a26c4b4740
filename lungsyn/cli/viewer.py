"""The verb of the viewer: cases, predictions and the audit's neighbours to a folder that a browser opens."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lungsyn.cli.arguments import add, add_section, case_folders, verb
from lungsyn.folds import folds_in, in_fold
from lungsyn.hosts import is_host
from lungsyn.settings.evaluation import Viewing
from lungsyn.settings.study import Study
from lungsyn.volume.files import read_json
from lungsyn.volume.predictions import read_predictions
from lungsyn.volume.tables import read_table


def _write_arguments(parser):
    add(parser, "cohort", "out")
    add(parser, "cases", "scores", "predictions", nargs="+")
    parser.add_argument("--synthetic", type=Path, nargs="*", default=[], help="the folders of the sets' batches")
    parser.add_argument("--neighbours", type=Path, nargs="*", default=[], help="nearest.tsv of each set")
    add_section(parser, study=Study, figures=Viewing)


@verb("viewer", "write", _write_arguments, recipe=1)
def viewer_write(args) -> None:
    """Put cases, predictions and nearest train cases into a folder whose page shows them in a browser."""
    from lungsyn.evaluation.scores import read_arms
    from lungsyn.viewer.folder import Shelf
    from lungsyn.viewer.views import view_of_predictions, view_of_set

    cases = {folder.name: folder for folder in case_folders(args.cases)}
    rows = read_table(args.cohort, ["case"])
    fold = folds_in(rows)[0]  # of folds the first, whose sets and predictions the rule gives
    rows = in_fold(rows, fold)
    split = {row["case"]: f"{row['split']} host" if is_host(row) else row["split"] for row in rows}
    shelf, views = Shelf(args.out, args.study, args.figures, cases, split), []
    nearest = _by_set([row for path in args.neighbours for row in read_table(path)])
    for (name, size), made in _made(args.synthetic).items():
        title = f"Synthetic set “{name}”{_of(size, fold)}"
        views.append(view_of_set(shelf, title, made, nearest.get((name, size), [])))
    predicted = [row for folder in args.predictions for row in read_predictions(folder)]
    for (segmenter, size), scores in read_arms(args.scores).items():
        rows = [row for row in predicted if (row["segmenter"], row["size"]) == (segmenter, size)]
        title = f"Predictions of segmenter “{segmenter}”{_of(size, fold)}"
        views.append(view_of_predictions(shelf, title, len(views), scores, rows))
    size = shelf.close(views)
    print(f"{len(shelf.volumes)} volumes, {size / 1e6:.1f} MB: {args.out / 'index.html'}", flush=True)


def _of(size: int, fold: int | None) -> str:
    share = "" if size == 100 else f", {size} % of the train patients"
    return share if fold is None else f"{share}, fold {fold}"


def _by_set(rows: Sequence[Mapping]) -> dict[tuple[str, int], list[Mapping]]:
    found: dict[tuple[str, int], list[Mapping]] = {}
    for row in rows:
        found.setdefault((row["set"], int(row["size"])), []).append(row)
    return found


def _made(batches: Sequence[Path]) -> dict[tuple[str, int], dict[str, Path]]:
    """The folders of synthetic cases by set and size, as their case.json says them."""
    found: dict[tuple[str, int], dict[str, Path]] = {}
    for folder in case_folders(batches):
        about = read_json(folder / "case.json")
        found.setdefault((about["set"], int(about["size"])), {})[folder.name] = folder
    return found
