"""Verbs of the audit: how real is a synthetic set, and can it be shared?"""

from pathlib import Path

from lungsyn.cli.arguments import add, add_compute, add_numbers, add_of, add_section, attempts, case_folders, verb
from lungsyn.errors import InputError
from lungsyn.provenance import note
from lungsyn.settings.audit import Fidelity, Probing, Thresholds
from lungsyn.volume.files import data_digests, read_json, whole, write_json
from lungsyn.volume.tables import read_table, write_table


def _probe_arguments(parser):
    add_of(parser, "generator", "set", "size")
    add_section(parser, audit=Probing)
    add_numbers(parser, "seed")
    add(parser, "synthetic", "train", "held-out", nargs="+")
    parser.add_argument("--donors", type=Path, nargs="*", default=[], help="cases beside --train that lent it masks")
    add_compute(parser)
    add(parser, "out")


@verb("audit", "memorisation", _probe_arguments, recipe=3)
def audit_memorisation(args) -> None:
    """Find what of the train cases is nearest to every synthetic, held-out and planted one: nodules, whole volumes,
    parts and outlines."""
    from lungsyn.audit import probes
    from lungsyn.audit.outlines import probe_outlines
    from lungsyn.compute import choose_device, set_up

    device = choose_device(args.compute)
    set_up(args.compute.generator_threads, device)
    paths = {"synthetic": args.synthetic, "held-out": args.held_out, "train": args.train}
    folders = {group: whole(case_folders(given)) for group, given in paths.items()}
    rows = [row for kind in probes.KINDS for row in probes.probe(kind, folders, args.audit, args.seed, device)]
    rows += probes.probe_parts(folders, args.audit, args.seed, device)
    known = [*folders["train"], *whole(case_folders(args.donors))]
    outlines = probe_outlines(folders["synthetic"], known, folders["held-out"], args.seed)
    rows += [dict.fromkeys(probes.COLUMNS) | row for row in outlines]
    print(f"{sum(row['compared'] or 0 for row in rows):.3g} pairs of cubes, shifts and turns compared")
    write_table(args.out, [args.of | row for row in rows], [*args.of, *probes.COLUMNS])


def _membership_arguments(parser):
    add_of(parser, "generator", "size")
    add_numbers(parser, "seed")
    add(parser, "model")
    add(parser, "train", "unseen", nargs="+")
    add_compute(parser)
    add(parser, "out")


@verb("audit", "membership", _membership_arguments, recipe=1, seams=("generators",))
def audit_membership(args) -> None:
    """Measure the generator's loss on each case that it learned from and on each that it never saw."""
    from lungsyn.audit import membership
    from lungsyn.models import load_generator
    from lungsyn.provenance import model_facts

    generator = load_generator(args.model, args.compute)
    folders = [whole(case_folders(paths)) for paths in (args.train, args.unseen)]
    groups = membership.case_groups(generator, model_facts(args.model), *folders)
    rows = [args.of | row for row in membership.attack(generator, groups, args.seed)]
    write_table(args.out, rows, [*args.of, *membership.COLUMNS])


def _verdict_arguments(parser):
    add_of(parser, "generator", "set", "size")
    add_section(parser, audit=Thresholds)
    add_numbers(parser, "seed")
    parser.add_argument("--held-out-splits", required=True, nargs="+", help="where the held-out cases are from")
    add(parser, "synthetic", nargs="+")
    add(parser, "neighbours", "out")
    parser.add_argument("--membership", type=Path, help="losses of the generator, if it has any")


@verb("audit", "verdict", _verdict_arguments, recipe=3)
def audit_verdict(args) -> None:
    """Say whether a synthetic set can be shared: every check with its value, threshold and a sentence."""
    from lungsyn.audit.probes import read_probes
    from lungsyn.audit.verdict import verdict

    folders = whole(case_folders(args.synthetic))
    losses = read_table(args.membership, ["patient", "group", "log_loss"]) if args.membership else []
    if args.membership and not losses:
        raise InputError(f"{args.membership}: it holds no loss: run lungsyn audit membership again")
    neighbours = read_probes(args.neighbours, [folder.name for folder in folders])
    found = verdict(neighbours, losses, args.audit, args.seed)
    about = args.of | {
        "cases": dict(data_digests(folders)),  # it is on these and no others
        "held_out_splits": args.held_out_splits,
        "made": note(args.rule, audit=args.audit),
    }
    write_json(args.out, about | found)
    print(
        f"{args.of['set']}: {found['result']}", *(f"{c['result']}: {c['sentence']}" for c in found["checks"]), sep="\n"
    )


def _fidelity_arguments(parser):
    add_of(parser, "generator", "set", "size")
    add(parser, "real-train", "real-held-out", "synthetic", nargs="+")
    add_section(parser, fidelity=Fidelity)
    add_numbers(parser, "seed")
    parser.add_argument("--reference", type=Path, help="ranges of the measures; without: nothing was judged")
    add(parser, "out", "quality", "masks")


@verb("audit", "fidelity", _fidelity_arguments, recipe=3)
def audit_fidelity(args) -> None:
    """Say how many of a set's volumes were rejected, and how far it is from the train cases, beside held-out ones."""
    from lungsyn.audit import features, floor, likeness
    from lungsyn.audit.specimens import openers
    from lungsyn.quality.attempts import RATE_COLUMNS, rates

    counted = rates(attempts(args.synthetic), read_json(args.reference)) if args.reference else []
    write_table(args.quality, [args.of | row for row in counted], [*args.of, *RATE_COLUMNS])
    extract, about = features.choose(args.fidelity.weights)
    folders = [whole(case_folders(paths)) for paths in (args.real_train, args.real_held_out, args.synthetic)]
    measured = floor.measure_sets(openers(*folders), args.fidelity.slices_per_case, extract)
    found = floor.audit(*measured, args.seed)
    print(floor.summary(found))
    alike = [args.of | row for row in likeness.compare(*folders, args.seed)]
    write_table(args.masks, alike, [*args.of, *likeness.COLUMNS])
    made = note(args.rule, fidelity=args.fidelity, seed=args.seed, extractor=about)
    write_json(args.out, args.of | {"made": made} | found)
