"""What made a file: its own description, if it has one, and Snakemake's record of the job that wrote it.

Models and cases describe themselves (header of the safetensors file, ``case.json``); for tables and pictures there are
the record in ``.snakemake/metadata`` and the job's log. A file in a folder that one job made has the folder's record.
"""

import base64
import json
import re
import shlex
import time
from itertools import pairwise
from pathlib import Path

from lungsyn.cohort.private import read_names
from lungsyn.errors import InputError
from lungsyn.provenance import file_digest, model_facts
from lungsyn.recipes import recipe_of, recorded
from lungsyn.settings.cohort import NUMBERED_CASE
from lungsyn.volume.files import read_json

RECORDS = Path(".snakemake/metadata")
NAMES = Path("private/names.tsv")  # in results/
NAME_LENGTH = 254  # Snakemake cuts the encoded path of a file into folder names of this length
SHOWN = 12  # inputs that are listed by name


def explain(path: Path) -> str:
    """Lines of ``key  value``. Raises InputError for a file that does not exist or that no job wrote."""
    if not path.exists():
        raise InputError(f"{path}: no such file; `snakemake --summary` lists the files of a study")
    record, folder = find_record(path)
    described = description(path)
    if not record and not described:
        raise InputError(
            f"{path}: nothing says what made it: it does not describe itself, and no folder above it has a record of "
            f"it in {RECORDS}. Is it a file that a run wrote, in the folder where it was written?"
        )
    facts = {"digest": file_digest(path)} if path.is_file() else {}
    facts |= from_record(record, folder) if record else {}
    facts |= {key: value for key, value in from_description(described).items() if key not in facts or key == "inputs"}
    said = [str(path), *(line for key, value in facts.items() for line in lines(key, value))]
    return "\n".join([*said, *lines("raw files", raw_files(path, said))])


def raw_files(path: Path, said: list[str]) -> dict[str, str]:
    """Which raw files the numbered cases come from that were ``said``: for local eyes, from the study's own table."""
    table = next((f / NAMES for f in path.resolve().parents if (f / NAMES).is_file()), None)
    numbers = {number for line in said for number in re.findall(NUMBERED_CASE, line)}
    rows = read_names(table) if table and numbers else []
    return {row["case"]: f"{row['source']} {row['annotation']}" for row in rows if row["case"] in numbers}


def find_record(path: Path) -> tuple[dict | None, Path]:
    """Snakemake's record of the file, or of the folder that was made with it, and the folder of the run."""
    path = path.resolve()
    for folder in path.parents:
        if (folder / RECORDS).is_dir():
            name = path.relative_to(folder)
            for candidate in (name, *name.parents):
                encoded = base64.urlsafe_b64encode(str(candidate).encode()).decode()
                pieces = [encoded[i : i + NAME_LENGTH] for i in range(0, len(encoded), NAME_LENGTH)]
                record = folder.joinpath(RECORDS, *(f"@{piece}" for piece in pieces[:-1]), pieces[-1])
                if record.is_file():
                    return read_json(record), folder
    return None, path


def description(path: Path) -> dict:
    """What the file says of itself: the header of a model, ``case.json`` of a case and of the files beside it."""
    if path.suffix == ".safetensors":
        return model_facts(path)
    beside = (path if path.is_dir() else path.parent) / "case.json"
    return read_json(beside) if beside.is_file() else {}


def from_record(record: dict, folder: Path) -> dict:
    """The job: its rule, command, settings, inputs, recipe then and now, log."""
    words = shlex.split(record["shellcmd"] or "")
    words = words[words.index("lungsyn") :] if "lungsyn" in words else words  # torchrun may stand before it
    took = f"{record['endtime'] - record['starttime']:,.0f} s" if record["starttime"] else "?"
    facts = {
        "rule": record["rule"],
        "finished": f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(record['endtime']))}, after {took}",
        "command": " ".join(words[:3]),
        "settings": {
            option.removeprefix("--"): json.loads(value) if value.startswith("{") else value
            for option, value in pairwise(words)
            if option.startswith("--") and (value.startswith("{") or option == "--seed")
        },
        "inputs": {name: (record["input_checksums"] or {}).get(name, "").rpartition(":")[2][:12]
                   for name in record["input"] or []},
    }  # fmt: skip
    recipe = recorded(record["params"] or [], words[2]) if len(words) > 2 else None
    if recipe:
        facts["recipe"] = f"{recipe}{recipe_now(words[1], words[2], recipe)}"
    for log in record["log"] or []:
        said = [line for line in (folder / log).read_text().splitlines() if line] if (folder / log).is_file() else []
        facts["log"] = [log, *said[:1], *said[-1:]]
    return facts


def recipe_now(stage: str, verb: str, then: str) -> str:
    """What has become of a job's recipe, in words."""
    kinds = [part.rpartition("-")[0] for part in then.split("+")[1:]]
    try:
        now = recipe_of(stage, verb, *kinds)
    except (KeyError, ValueError):
        return "; there is no such job now"
    return ", as it is now" if now == then else f"; it is {now} now"


def from_description(described: dict) -> dict:
    """What a model or a case adds: digests of its inputs, seed, versions, device, cost."""
    made = described.get("made", described)
    kept = ("of", "inputs", "row", "seed", "recipe", "code", "ran_on", "images_seen", "steps", "best_loss", "versions")
    facts = {key: made[key] for key in kept if key in made}
    facts |= {key: made[key] for key in ("generator", "segmenter", "synthesis") if key in made}
    facts |= {f"voxels of {described['case']}": described["digest"]} if "digest" in described else {}
    return facts | {key: described[key] for key in ("cost",) if key in described}


def lines(key: str, value) -> list[str]:
    """``value`` below its key: a dict or list one entry per line, the first ``SHOWN`` of them."""
    if isinstance(value, dict):
        entries = [
            f"{name}  {json.dumps(v) if isinstance(v, dict | list) else v}".rstrip() for name, v in value.items()
        ]
    else:
        entries = [str(entry) for entry in value] if isinstance(value, list) else [str(value)]
    more = [f"and {len(entries) - SHOWN} more"] if key == "inputs" and len(entries) > SHOWN else []
    shown = entries[:SHOWN] + more if more else entries
    return [f"  {key if i == 0 else '':<10} {entry}" for i, entry in enumerate(shown)]
