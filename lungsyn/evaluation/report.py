"""The report: one HTML file that opens anywhere, offline; its pictures and their data are inside it.

The first screen has the answer, the rest is folded.
"""

import base64
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from lungsyn.evaluation.answer import headline, sentences, uncertainty
from lungsyn.evaluation.comparison import STAYS, ends_text, interval_text, p_text, signed
from lungsyn.evaluation.groups import GROUPS, TEST
from lungsyn.evaluation.page import SCRIPT, STYLE, TEMPLATE
from lungsyn.evaluation.paired import IF_EVEN, NO_INTERVAL
from lungsyn.folds import folds_in, in_fold
from lungsyn.hosts import is_host
from lungsyn.settings.arms import Arm, described
from lungsyn.volume.tables import JOIN

RESULTS = {
    "pass": "no sign that it gives patients away", "fail": "do not share it", "blind": "cannot be told",
}  # fmt: skip
WARNED_CASES = 10  # that are named beside a warning


@dataclass(frozen=True)
class Findings:
    """What a report shows. ``comparisons``: rows of `comparison.compare`, by what was trained, in words; ``strata``:
    rows of `strata.strata_rows` with their ``size``, by segmenter; ``layers``: rows of `comparison.layers`, by what was
    trained; ``choice``: what was frozen before the test was scored, if anything (`choice.choose`); ``cohort``: rows of
    ``cohort.tsv``; ``pictures``: rows of `gallery.read_pictures`, the main one first; ``verdicts``: of the audit, one
    per synthetic set; ``quality``: by synthetic set, how many volumes were rejected, as read from the table;
    ``versions``: by package; ``costs``: rows of `costs.totals`; ``viewer``: its page, as a link from the report."""

    comparisons: Mapping[str, Sequence[Mapping]]
    strata: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    cohort: Sequence[Mapping] = ()
    pictures: Sequence[Mapping] = ()
    verdicts: Sequence[Mapping] = ()
    quality: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    masks: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    sets: Sequence[Mapping] = ()
    uses: Sequence[Mapping] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    costs: Sequence[Mapping] = ()
    layers: Mapping[str, Sequence[Mapping]] = field(default_factory=dict)
    choice: Mapping | None = None
    viewer: str | None = None


def build(title: str, config_json: str, found: Findings) -> str:
    """The report as HTML. ``config_json``: the whole config (`section.as_json`)."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = lambda value, digits: "" if value is None else f"{value:,.{digits}f}"
    environment.filters["short"] = lambda value: "" if value is None else f"{value:.3g}"
    config = json.loads(config_json)
    draws = config.get("replicates_draw", "segmenter")
    environment.filters["figures"] = _figures
    return environment.from_string(TEMPLATE).render(
        title=title, config=config, comparisons=found.comparisons, strata=found.strata, layers=found.layers,
        choice=told_choice(found), stays=STAYS[draws], draws=draws,
        folds=config.get("cohort", {}).get("split", {}).get("folds"),
        cohort=cohort_summary(found.cohort), shown=WARNED_CASES, verdicts=found.verdicts, quality=found.quality,
        masks=found.masks, sets=found.sets, uses=found.uses, spread=_spread,
        pictures=[_shown(row) for row in found.pictures], versions=found.versions, costs=found.costs,
        peak=max((row["peak_mb"] or 0 for row in found.costs), default=0) / 1000, viewer=found.viewer,
        sizes=len({verdict["size"] for verdict in found.verdicts}), results=RESULTS, style=STYLE, script=SCRIPT,
        told_verdicts=told_verdicts,
        groups=(TEST, *[group for group in GROUPS if group != TEST]), test=TEST, headline=headline,
        uncertainty=uncertainty, sentences=sentences, signed=signed, interval=interval_text, ends=ends_text,
        no_interval=NO_INTERVAL, if_even=IF_EVEN, p_text=p_text, pretty=_pretty,
        trained_on=lambda arm: described(Arm(**arm)),
    )  # fmt: skip


def _figures(number: str) -> str:
    """A number of a table with three digits."""
    return f"{float(number):.3g}" if number else ""


def _spread(mean: str, deviation: str) -> str:
    return f"{_figures(mean)} ({_figures(deviation)})" if mean else ""


def _shown(picture: Mapping) -> dict:
    """A picture as the page has it; its data lie beside it, in a table of its name."""
    path = Path(picture["file"])
    table = path.with_suffix(".tsv")
    return {
        "data": _base64(path), "caption": picture["caption"], "name": path.stem,
        "table": _base64(table) if table.is_file() else None,
    }  # fmt: skip


def told_choice(found: Findings) -> str:
    """Whether a recipe was chosen before the test was opened, and what became of it, in words."""
    if found.choice is None:
        return (
            "Nothing was chosen before the test was opened (freeze_choice): whoever picks the best arm by these "
            "numbers picks luck, too."
        )
    chosen, digest = found.choice["chosen"], found.choice["digest"]
    text = (
        f"Chosen on validation patients: segmenter “{chosen['segmenter']}”, arm “{chosen['arm']}”, {chosen['size']} % "
        f"of the train patients, with a mean Dice of {chosen['dice']:.3f} on {chosen['cases']} validation cases; "
        f"frozen as {digest[:16]}. "
    )
    if found.choice["test_opened_before"]:
        return text + "The test had been opened before, so this is no blind choice."
    row = next(
        (row for rows in found.comparisons.values() for row in rows
         if row["group"] == TEST and all(row[key] == chosen[key] for key in ("segmenter", "arm", "size"))), None
    )  # fmt: skip
    if row is None or row["mean_difference"] is None:
        return text + "The test was opened after that. It is the benchmark itself, so there is nothing to compare."
    p = ""
    if row["p"] is not None:
        alone = f"{p_text(row['p'])} without a correction for the other arms"
        corrected = (
            f"{p_text(row['p_holm'])} after Holm: with folds, validation patients are tested in other folds, so the "
            "choice knows the patients of the test, if not what was found there"
        )
        p = f", p {corrected if found.choice['of_folds'] else alone}"
    return text + f"The test was opened after that: {signed(row['mean_difference'])} Dice{p}."


def told_verdicts(verdicts: Sequence[Mapping], sizes: int) -> list[tuple[str, str]]:
    """Which sets, in words, have which result; the folds of a set that have the same one are named together."""
    found: dict[tuple, list[str]] = {}
    for verdict in verdicts:
        found.setdefault((verdict["set"], verdict["size"], verdict["result"]), []).append(str(verdict.get("fold", "")))
    return [
        (name + f", {size} %" * (sizes > 1) + f", fold {', '.join(folds)}" * any(folds), result)
        for (name, size, result), folds in found.items()
    ]


def _base64(path: Path) -> str:
    return base64.b64encode(Path(path).read_bytes()).decode("ascii")


def _pretty(content) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False)


def cohort_summary(rows: Sequence[Mapping]) -> dict:
    """Patients, marked cases and nodules per split, how many hosts, how many cases were excluded for which reason,
    warnings {text: cases}.

    With folds these are the splits of each. ``n_nodules`` may be text, as read from the table.
    """
    splits, used = [], [row for row in rows if row["status"] == "included"]
    hosts = [row for row in used if is_host(row)]
    for fold, split in product(folds_in(rows), ("train", "validation", "test")):
        members = [row for row in in_fold(used, fold) if row["split"] == split and not is_host(row)]
        splits.append({
            "split": split if fold is None else f"fold {fold}: {split}", "cases": len(members),
            "patients": len({row["patient"] for row in members}),
            "nodules": sum(int(row["n_nodules"] or 0) for row in members),
        })  # fmt: skip
    reasons = Counter(row["reason"] for row in rows if row["status"] != "included")
    n_excluded = sum(row["status"] != "included" and bool(row["patient"]) for row in rows)  # an exclusion may name none
    warned: dict[str, list[str]] = {}
    for row in rows:
        for warning in filter(None, row["warnings"].split(JOIN) if row["status"] == "included" else ()):
            warned.setdefault(warning, []).append(row["case"])
    hosts_of = {"cases": len(hosts), "patients": len({row["patient"] for row in hosts})}
    return {
        "splits": splits,
        "hosts": hosts_of,
        "excluded": reasons.most_common(),
        "n_excluded": n_excluded,
        "warned": warned,
    }
