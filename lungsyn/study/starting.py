"""`lungsyn init`: look at a folder of data, say what it holds, write a study's overlay, name what to type next.

What is said goes to the terminal alone: counts and reasons, no file and no patient by name.
"""

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from lungsyn import machine
from lungsyn.cohort import table
from lungsyn.cohort.split import SPLITS
from lungsyn.cohort.survey import Survey, survey, told_values
from lungsyn.errors import InputError
from lungsyn.folds import folds_in, in_fold
from lungsyn.settings.checking import check, merge, read
from lungsyn.settings.cohort import Listing, Preparation
from lungsyn.settings.section import part
from lungsyn.settings.study import Config
from lungsyn.study import overlay, planning
from lungsyn.study.overlay import Choice, Prepared
from lungsyn.volume.files import whole_file

CONFIG = Path("config.yaml")
TRIED = 3  # cases that are prepared to see whether they can be, and how long it takes
NEUTRAL = "my study"
Say = Callable[[str], None]


def begin(root: Path, out: Path | None, name: str | None, gpu: bool, force: bool, say: Say) -> None:
    """Write the overlay ``out`` of a study of the data below ``root``, and ``say`` what was found, line by line.

    Raises InputError where the folder holds no study, or where ``out`` is there and ``force`` is not given."""
    base, root, workers = read([CONFIG]), root.expanduser().absolute(), machine.cpus()
    name = name or title_of(root)
    out = out or Path(f"{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') or 'study'}.yaml")
    check_free(out, force)
    found = survey(root, workers)
    say(f"{root}\n{told_of(found)}")
    view = overlay.field_of_view(found)
    choices = [
        Choice("study.name", name, "the title of every picture and table, so no patient's name"),
        *overlay.of_cohort(found, root, view, gpu),
    ]
    study = check(laid_over(base, choices))
    say(f"looking at every case ({workers} at a time) ...")
    listing = part(study.cohort, Listing)
    by_reader = table.found_by_reader(listing, root, workers)
    say(f"  found: {told_by_reader(by_reader)}")
    rows = table.with_splits(by_reader, listing, study.study.seed)
    say(indented(table.summary(rows)))
    included = [row for row in rows if row["status"] == "included"]
    shapes = try_some(included, study, root, say)
    if len(found.sizes_mm):
        shapes = found.sizes_mm / study.cohort.preprocess.spacing_mm
    cases, patients = per_split(included, "case"), per_split(included, "patient")
    choices += overlay.of_trainings(view, gpu, study.cohort.preprocess.spacing_mm, Prepared(shapes, cases))
    for sentence in overlay.caution(choices, cases, patients):
        say(f"  mind: {sentence}")
    folder = folder_for(out.stem)
    write(out, base, choices, root, folder, gpu)
    say(f"\n{out} is written: what differs from config.yaml, for {'a GPU' if gpu else 'a CPU'}, each key with its "
        f"reason.\nRead it; then see what the study costs, and run it:\n\n{next_commands(out, folder)}")  # fmt: skip


def title_of(root: Path) -> str:
    """The folder's name as a study's title; a study of patients is not called a phantom's."""
    return root.name if root.name and "phantom" not in root.name.lower() else NEUTRAL


def check_free(out: Path, force: bool) -> None:
    """Raises InputError unless ``out`` may be written."""
    if out.absolute() == CONFIG.absolute():
        raise InputError(f"{out} holds the settings of all studies: name another file with --out")
    if out.exists() and not force:
        raise InputError(f"{out} is there already: name another file with --out, or replace it with --force")


def folder_for(name: str) -> Path:
    """Where the study's results go: a folder of that name, unless it is there and holds something else."""
    is_taken = Path(name).exists() and not Path(name, "results").exists()
    return Path(f"{name}_study" if is_taken else name)


def told_of(found: Survey) -> str:
    """What the files alone say."""
    lines = [f"  layout: {found.layout}"]
    if found.listed is not None:
        lines.append(
            "  patients: " + ("listed in cases.tsv" if found.listed else "no list (cases.tsv): each case is one")
        )
    if found.values:
        lines.append(f"  labels: value {told_values(found)} of {len(found.values):,} labels")
    if len(found.spacings_mm):
        small = overlay.field_of_view(found) == "part"
        lines += [
            f"  voxels: {spread(found.spacings_mm)} mm",
            f"  images: {spread(found.sizes_mm)} mm, so {'cut-outs' if small else 'whole chests'}",
        ]
    return "\n".join(lines)


def told_by_reader(rows: Sequence[dict]) -> str:
    """How many cases can be used, before they are dealt to splits, which fails where patients are too few."""
    used = [row for row in rows if row["status"] == "included"]
    told = f"{len(used):,} of {len(rows):,} cases can be used; patients: {len({row['patient'] for row in used}):,}"
    if not used:
        return told
    nodules = sum(int(row["n_nodules"]) for row in used)
    spacings = np.array([[float(value) for value in row["spacing_mm"].split("x")] for row in used])
    return f"{told}; nodules: {nodules:,}; voxels: {spread(spacings)} mm"


def spread(values: np.ndarray) -> str:
    """Median ``[3]`` of ``[case 3]``, and how far the cases lie apart."""
    middle, low, high = np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
    told = " x ".join(f"{value:.3g}" for value in middle)
    if np.allclose(low, high, rtol=0.01):
        return told
    return f"{told} (median; from {' x '.join(f'{v:.3g}' for v in low)} to {' x '.join(f'{v:.3g}' for v in high)})"


def try_some(rows: Sequence[dict], study: Config, root: Path, say: Say) -> np.ndarray:
    """Prepare some cases as the study would, and say how that went: edges in voxels, ``[case 3]``. Raises InputError
    where none can be prepared."""
    chosen = [rows[i] for i in sorted({len(rows) * k // TRIED for k in range(TRIED)})]
    started, shapes, reasons = time.monotonic(), [], []
    for row in chosen:
        try:
            shapes.append(table.prepare_case(row, part(study.cohort, Preparation), root).ct.shape)
        except InputError as error:
            reasons.append(str(error))
    seconds = (time.monotonic() - started) / len(chosen)
    if not shapes:
        raise InputError(f"none of the {len(chosen)} cases that were tried can be prepared: {reasons[0]}")
    told = " x ".join(f"{n:.0f}" for n in np.median(shapes, axis=0))
    say(f"  tried: {len(shapes)} of {len(chosen)} cases prepared, {seconds:.1f} s each, {told} voxels at "
        f"{study.cohort.preprocess.spacing_mm:g} mm")  # fmt: skip
    for reason in dict.fromkeys(reasons):
        say(f"    not prepared: {reason}")
    return np.array(shapes)


def per_split(rows: Sequence[dict], column: str) -> dict[str, int]:
    """How many cases or patients each split has; with folds, that of the first."""
    of_fold = in_fold(rows, folds_in(rows)[0])
    return {name: len({row[column] for row in of_fold if row["split"] == name}) for name in SPLITS}


def laid_over(base: dict, choices: Sequence[Choice]) -> dict:
    """The config ``base`` with the choices."""
    merged = base
    for choice in choices:
        value = choice.value
        for key in reversed(choice.key.split(".")):
            value = {key: value}
        merged = merge(merged, value)
    return merged


def write(out: Path, base: dict, choices: Sequence[Choice], root: Path, folder: Path, gpu: bool) -> None:
    """The overlay, if the workflow takes it. Raises InputError."""
    head = [
        f"A study of {root}, as `lungsyn init` set it up for {'a GPU' if gpu else 'a CPU'}. Only what differs from "
        "config.yaml.",
        *(f"  {line.strip()}" for line in next_commands(out, folder).splitlines()[1:]),
    ]
    with whole_file(out) as temporary:
        temporary.write_text(overlay.as_yaml(overlay.differing(choices, base), head), encoding="utf-8")
        planning.check_disk(check(read([CONFIG, temporary])), Path.cwd())


def next_commands(out: Path, folder: Path) -> str:
    """What to type next, in this folder."""
    beside = Path(sys.executable).parent / "lungsyn"
    found = shutil.which("lungsyn")
    command = "lungsyn" if found and os.path.samefile(found, beside) else shlex.quote(os.path.relpath(beside))
    options = f"--configfile {shlex.quote(str(out))} --directory {shlex.quote(str(folder))}"
    return f"  {command} plan {options}\n  {command} run {options}"


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())
