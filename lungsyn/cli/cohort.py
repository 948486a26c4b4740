"""Verbs of the cohort: raw data to a list of cases and to cases on one grid; cases out again."""

from pathlib import Path

from lungsyn.cli.arguments import add, add_numbers, add_section, case_folders, verb
from lungsyn.cohort.split import folds_of
from lungsyn.errors import InputError
from lungsyn.folds import folds_in
from lungsyn.registry import family
from lungsyn.settings.cohort import Listing, Preparation, Simulation
from lungsyn.volume.files import open_case, read_json, whole_case, write_case, write_left_out
from lungsyn.volume.tables import read_table, write_table


def _phantom_arguments(parser):
    add_section(parser, cohort=Simulation)
    add_numbers(parser, "seed", "workers")
    add(parser, "out")


@verb("cohort", "phantom", _phantom_arguments, recipe=1, seams=("readers",))
def cohort_phantom(args) -> None:
    """Simulate chests and write them as DICOM series in LIDC-IDRI's layout."""
    family("readers", args.cohort.dataset).simulate(args.cohort, args.seed, args.out, args.workers)


def _index_arguments(parser):
    add_section(parser, cohort=Listing)
    add_numbers(parser, "seed", "workers")
    add(parser, "root", "names", "out")


@verb("cohort", "index", _index_arguments, recipe=2, seams=("readers",))
def cohort_index(args) -> None:
    """List and check the cases of a dataset, split them by patient, say what is left out and why."""
    from lungsyn.cohort import private, table

    earlier = private.read_names(args.names)
    rows = table.index(args.cohort, args.root, args.seed, args.workers, earlier)
    private.write_names(args.names, rows, earlier)
    if not args.cohort.readable:
        private.make_key(args.names.parent)
    keyed = [row | {"raw": row["raw"] and private.keyed(args.names.parent, row["raw"])} for row in rows]
    write_table(args.out, keyed, table.columns(folds_of(args.cohort.split)))
    print(table.summary(rows))


def _prepare_arguments(parser):
    parser.add_argument("--case", required=True, help="the case's name in the listing")
    add_section(parser, cohort=Preparation)
    add(parser, "root", "names", "out")


@verb("cohort", "prepare", _prepare_arguments, recipe=1, seams=("readers",))
def cohort_prepare(args) -> None:
    """Read one case's raw files and write it as NIfTI on an isotropic grid, with its masks; or why that cannot be."""
    from lungsyn.cohort import private
    from lungsyn.cohort.table import prepare_case

    row = private.row_of(args.names, args.case)
    try:
        case = prepare_case(row, args.cohort, args.root)
    except InputError as error:
        detail = f" ({error.detail})" if error.detail and not private.is_number(args.case) else ""
        print(f"case {args.case} is left out: {error}{detail}")
        write_left_out(args.out, {"case": args.case, "patient": row["patient"], "left_out": str(error)})
        return
    case.about["token"] = private.keyed(args.names.parent, case.digest, numbered=row["name"] != row["case"])
    write_case(args.out, case)


def _table_arguments(parser):
    add(parser, "listing", "out")
    add(parser, "cases", nargs="+")


@verb("cohort", "table", _table_arguments, recipe=1)
def cohort_table(args) -> None:
    """The listing after the cases were prepared: without those that could not be, and with what was odd."""
    from lungsyn.cohort import table

    abouts = {folder.name: read_json(folder / "case.json") for folder in case_folders(args.cases)}
    rows = table.settled(read_table(args.listing), abouts)
    write_table(args.out, rows, table.columns(folds_in(rows)))
    print(table.summary(rows))


def _nodules_arguments(parser):
    add(parser, "cases", nargs="+")
    add(parser, "out")


@verb("cohort", "nodules", _nodules_arguments, recipe=1)
def cohort_nodules(args) -> None:
    """List every nodule of the given cases: size, place at the pleura, readers and their ratings."""
    from lungsyn.cohort.table import NODULE_COLUMNS, nodule_rows

    write_table(args.out, nodule_rows(read_json(f / "case.json") for f in case_folders(args.cases)), NODULE_COLUMNS)


def _export_arguments(parser):
    add(parser, "format", type=str, choices=["nnunet", "dicom"])
    add(parser, "cases", nargs="+")
    parser.add_argument(
        "--verdict", type=Path, help="the set's verdict: unless it is pass, and on these cases, nothing is exported"
    )
    add(parser, "out")


@verb("cohort", "export", _export_arguments)
def cohort_export(args) -> None:
    """Write cases, real or synthetic, as an nnU-Net raw dataset, or synthetic ones as DICOM CT and SEG."""
    from lungsyn.cohort import export

    opened = open_case if args.verdict else whole_case  # with a verdict the voxels are held against it
    cases = [(folder.name, opened(folder)) for folder in case_folders(args.cases)]
    if args.verdict:
        export.refuse_unless_passed(read_json(args.verdict), cases)
    write = {"nnunet": export.write_nnunet, "dicom": export.write_dicom}[args.format]
    write(args.out, cases)
