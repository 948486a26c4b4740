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
from lungsyn.evaluation.page import SCRIPT, STYLE
from lungsyn.evaluation.paired import IF_EVEN, NO_INTERVAL
from lungsyn.folds import folds_in, in_fold
from lungsyn.hosts import is_host
from lungsyn.settings.arms import Arm, described
from lungsyn.volume.tables import JOIN

RESULTS = {
    "pass": "no sign that it gives patients away", "fail": "do not share it", "blind": "cannot be told",
}  # fmt: skip
WARNED_CASES = 10  # that are named beside a warning
TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style|safe }}</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p>The question: does synthetic CT help a lung-nodule segmenter, by how much, and can it be shared?</p>

{% for segmenter, rows in comparisons.items() %}
<section class="answer"{% if comparisons|length > 1 %} aria-label="answer, {{ segmenter }}"{% endif %}>
{% if comparisons|length > 1 %}<div class="quiet">Segmenter: {{ segmenter }}</div>{% endif %}
<p class="headline">{{ headline(rows, config) }}</p>
<p>How sure: {{ uncertainty(rows, config) }}</p>
</section>
{% endfor %}
{% if comparisons|length > 1 %}<p class="quiet">These are {{ comparisons|length }} answers, each corrected for its own
arms: where nothing differs, each has its own chance, up to
{{ "%g"|format(100 - 100 * config.evaluation.confidence) }} in 100, to say that something does.</p>{% endif %}
<dl class="glance">
{% if verdicts %}<dt>May it be shared?</dt>
<dd>{% for set, result in told_verdicts(verdicts, sizes) %}{{ set }}:
<b>{{ results[result] }}</b>{{ "; " if not loop.last }}{% endfor %}.
<a href="#sharing">What was looked for</a></dd>{% endif %}
{% if costs %}<dt>What did it cost?</dt>
<dd>{{ costs|selectattr("verb", "none")|sum("jobs") }} jobs of
{{ (costs|selectattr("verb", "none")|sum("seconds") / 3600)|number(1) }} hours in all, {{ peak|number(1) }} GB of memory
at most. <a href="#cost">By stage</a></dd>{% endif %}
{% if viewer %}<dt class="screen">Look at it</dt>
<dd class="screen"><a href="{{ viewer }}">Scroll through the volumes</a>, synthetic beside real and with predictions.
They lie beside this page and hold the cases' CT: do not pass them on with it.</dd>{% endif %}
<dt>Study</dt>
<dd>“{{ config.study.name }}”, seed {{ config.study.seed }}, {{ config.replicates }} trainings of each arm
{%- if folds %} in each of {{ folds }} folds{% endif %}</dd>
</dl>
<details class="part"><summary><h2>Every arm in a sentence</h2></summary>
{% for segmenter, rows in comparisons.items() %}
{% if comparisons|length > 1 %}<h3>{{ segmenter }}</h3>{% endif %}
<ul>{% for sentence in sentences(rows, config) %}<li>{{ sentence }}</li>{% endfor %}</ul>
{% endfor %}
<h3>What each arm is trained on</h3>
<ul>{% for name, arm in config.arms.items() %}<li>“{{ name }}”: {{ trained_on(arm) }}.</li>{% endfor %}</ul></details>

<p class="quiet">{{ choice }}</p>

{% macro figure_of(picture) %}
<figure>
<div class="scroll"><img src="data:image/png;base64,{{ picture.data }}" alt="{{ picture.caption }}"></div>
<figcaption>{{ picture.caption }}{% if picture.table %} <a class="screen" download="{{ picture.name }}.tsv"
href="data:text/tab-separated-values;base64,{{ picture.table }}">Its data as TSV: {{ picture.name }}</a>{% endif %}
</figcaption></figure>
{% endmacro %}
{% if pictures %}{{ figure_of(pictures[0]) }}{% endif %}

{% if verdicts %}<details class="part"><summary><h2 id="sharing">Can the synthetic sets be shared?</h2></summary>
<p class="quiet">Each set is compared with the train cases, less what the masks explain. The yardstick are real
held-out cases, of patients whom the generator never saw; disguised copies of train cases are planted in every audit
and must be found, or it is blind. An audit can show that patients are given away; it cannot prove that none is.
Outlines of lungs and body are compared by themselves: a set that has a patient's leads who has that patient's CT to it.
{% if draws != "segmenter" %}Replicates have sets of their own: that of the first is looked at here, and no other.
{% endif %}{% if folds %}Each fold has a set of its own, compared with its own train cases. None stands for the study:
lungsyn share takes sets of a study with one split.{% endif %}</p>
{% for verdict in verdicts %}
<h3>{{ verdict.set }}, {{ verdict.size }} % of the train patients
{%- if folds %}, fold {{ verdict.fold }}{% endif %}:
{{ results[verdict.result] }}{% if verdict.not_found %}; not looked for:
{{ verdict.not_found|join("; ") }}{% endif %} <span class="quiet">({{ verdict.result }}; held-out:
{{ verdict.held_out_splits|join(" and ") }} cases)</span></h3>
<div class="scroll"><table>
<tr><th>check</th><th>result</th><th>value</th><th>interval</th><th>limit</th><th class="words">what it says</th>
</tr>
{% for check in verdict.checks %}<tr><td>{{ check.check }}</td><td>{{ check.result }}</td>
<td>{{ check.value|short }}</td>
<td>{% if check.low is not none %}{{ check.low|short }} to {{ check.high|short }}{% endif %}</td>
<td>{% if check.threshold is not none %}{{ check.threshold|short }}{% endif %}</td>
<td class="words">{{ check.sentence }}</td></tr>
{% endfor %}</table></div>
{% for control in verdict.controls %}<p class="quiet">Controls, {{ control.kind }}: {{ control.planted }} copies
planted, {{ (100 * control.recall)|number(0) }} % found; {{ control.synthetic }} synthetic and {{ control.held_out }}
held-out against {{ control.train }} train{% if control.false_alarms is not none %}; halves of the held-out patients
differed in {{ (100 * control.false_alarms)|number(1) }} % of random splits at this level{% endif %}.</p>{% endfor %}
{% endfor %}</details>{% endif %}

<details class="part"><summary><h2>Comparison of the arms</h2></summary>
<p class="quiet">Dice is a mean over cases and replicates. Differences are to “{{ config.benchmark.arm }}”,
paired by case, with an interval over patients and Wilcoxon's signed-rank test. Both are about other patients, for
these trainings; “and trainings” is the interval over other patients and other trainings, and so is p,
by t, on which claims rest. This interval and p hold {{ if_even }}.
Both p are corrected for the number of arms (Holm). {{ stays }}
{% if folds %}Every patient is tested once, by models of the fold that did not see the patient; intervals and p are over
the {{ folds }} folds as well. What all folds share, since they share most of their train patients, is in no number.
{% endif %}“-”: no interval, since there are {{ no_interval }}:
what is rare may not have been seen. “Could have seen” is the smallest true
difference that would have been claimed with 80 % power. “Replicate SD”
is how far the mean Dice of one training lies from that of another. No case is left out: where reference and
prediction are both empty they agree (Dice and NSD 1, HD95 0 mm), where one of them is they do not (Dice and NSD 0,
HD95 the diagonal of the volume); the number of cases without a nodule stands above each table.</p>
{% for segmenter, rows in comparisons.items() %}{% for group in groups %}
{% set members = rows|selectattr("group", "equalto", group)|list %}{% if members %}
<h3>{{ group }}{% if comparisons|length > 1 %}, {{ segmenter }}{% endif %}: {{ members[0].n_cases }} cases of
{{ members[0].n_patients }} patients, {{ members[0].n_empty }} without a nodule
<span class="quiet">({{ "claims rest on this group" if group == test else "for inspection; no claims" }})
</span></h3>
<div class="scroll"><table>
<tr><th>arm</th><th>mean Dice</th><th>median</th><th>difference</th><th>interval</th>
<th>Wilcoxon</th><th>and trainings</th><th>p (Holm)</th><th>could have seen</th>
<th>replicate SD</th><th>ensemble Dice</th>
<th>NSD 2 mm</th><th>HD95 mm</th><th>sensitivity</th><th>false positives per case</th><th>lesion Dice</th></tr>
{% for row in members %}<tr><td>{{ row.arm }}</td><td>{{ row.mean_dice|number(3) }}</td>
<td>{{ row.median_dice|number(3) }}</td><td>{{ signed(row.mean_difference) }}</td><td>{{ interval(row) }}</td>
<td>{{ p_text(row.p_wilcoxon_holm) }}</td>
<td>{{ ends(row.mean_difference, row.trainings_low, row.trainings_high) }}</td><td>{{ p_text(row.p_holm) }}</td>
<td>{{ row.smallest_resolvable|number(3) }}</td>
<td>{{ row.replicate_sd|number(3) }}</td><td>{{ row.ensemble_dice|number(3) }}</td>
<td>{{ row.nsd_2mm|number(3) }}</td><td>{{ row.hd95_mm|number(1) }}</td>
<td>{{ row.sensitivity|number(2) }}</td><td>{{ row.false_positives|number(2) }}</td>
<td>{{ row.lesion_dice|number(3) }}</td></tr>
{% endfor %}</table></div>
{% endif %}{% endfor %}{% endfor %}</details>

{% if layers %}<details class="part"><summary><h2>Where the chance comes from</h2></summary>
<p class="quiet">What one more draw of each layer does to an arm's difference on the test (standard deviation, Dice): of
a patient to the patient's difference, of a training, or of a set, to the mean; of a fold to the mean in it. Share: of
the variance of the mean difference. They are known from few draws: they say what to have more of, and claim nothing.
</p>
{% for segmenter, rows in layers.items() %}
<div class="scroll"><table>
<tr><th>{{ segmenter if layers|length > 1 else "arm" }}</th><th>layer</th><th>one draw</th><th>share</th></tr>
{% for row in rows %}<tr><td>{{ row.arm if loop.first or row.arm != loop.previtem.arm }}</td><td>{{ row.layer }}</td>
<td>{{ row.sd|number(4) }}</td><td>{{ (100 * row.share)|number(0) }} %</td></tr>
{% endfor %}</table></div>
{% endfor %}</details>
{% endif %}
<details class="part"><summary><h2>Kinds of nodules</h2></summary>
<p class="quiet">Nodules of the test cases. Differences are to “{{ config.benchmark.arm }}”, paired by nodule, with
an interval over patients (“-”: {{ no_interval }}); they are many and nothing is corrected for that, so no claim rests
on them.
Texture is the mean of the readers' ratings (1 to 5): below 2.5 ground glass, below 3.5 part solid.</p>
{% for segmenter, rows in strata.items() %}{% for size, members in rows|groupby("size") %}
<details><summary>{{ segmenter }}, {{ size }} % of the train patients</summary><div class="scroll"><table>
<tr><th>kind</th><th>nodules</th><th>patients</th><th>arm</th><th>sensitivity</th><th>difference</th>
<th>interval</th><th>lesion Dice</th><th>difference</th><th>interval</th></tr>
{% for row in members %}
<tr><td>{{ row.stratum }}</td><td>{{ row.n_nodules }}</td><td>{{ row.n_patients }}</td>
<td>{{ row.arm }}</td><td>{{ row.sensitivity|number(2) }}</td><td>{{ signed(row.sensitivity_difference) }}</td>
<td>{{ ends(row.sensitivity_difference, row.sensitivity_ci_low, row.sensitivity_ci_high) }}</td>
<td>{{ row.lesion_dice|number(3) }}</td><td>{{ signed(row.dice_difference) }}</td>
<td>{{ ends(row.dice_difference, row.dice_ci_low, row.dice_ci_high) }}</td></tr>
{% endfor %}</table></div></details>
{% endfor %}{% endfor %}</details>

{% if pictures[1:] %}<details class="part"><summary><h2>Figures</h2></summary>
{% for picture in pictures[1:] %}{{ figure_of(picture) }}{% endfor %}</details>{% endif %}

{% if masks %}<details class="part"><summary><h2>What the masks are like</h2></summary>
<p class="quiet">Mean (standard deviation) over cases, or over their nodules. Distances are Wasserstein's, in the unit
of the row: how far the set's distribution is from the train cases', and as the floor, how far that of held-out patients
is, with equally many of each. Their difference has a bootstrap interval. “Asked” is what masks were to be, where they
are made up; “off” is the mean amount by which a volume, or a nodule, is not as asked.</p>
{% for name, rows in masks.items() %}
<h3>Set {{ name }}</h3>
<div class="scroll"><table><tr><th class="words">what</th><th>train</th><th>held-out</th><th>set</th><th>floor</th>
<th>distance</th><th>difference</th><th>asked</th><th>off</th></tr>
{% for row in rows %}<tr><td class="words">{{ row.what }}</td><td>{{ spread(row.train, row.train_sd) }}</td>
<td>{{ spread(row.held_out, row.held_out_sd) }}</td><td>{{ spread(row.synthetic, row.synthetic_sd) }}</td>
<td>{{ row.floor|figures }}</td><td>{{ row.distance|figures }}</td>
<td>{% if row.difference_low %}{{ row.difference_low|figures }} to {{ row.difference_high|figures }}{% endif %}</td>
<td>{{ spread(row.asked, row.asked_sd) }}</td><td>{{ row.off|figures }}</td></tr>
{% endfor %}</table></div>{% endfor %}</details>{% endif %}

{% if quality %}<details class="part"><summary><h2>Quality control</h2></summary>
<p class="quiet">Each synthetic volume's measures must lie where those of the real train cases lie; a rejected one is
made again with other noise, {{ config.quality.tries }} times at most. The ranges are as wide as it takes to reject
{{ (config.quality.false_rejections * 100)|number(0) }} % of new real cases; n train cases promise no less than one in
n + 1, for the image and for the anatomy of whole chests alike. The last attempt is kept whatever it is, marked in its
case.json and counted here: every set has its full number of volumes.</p>
{% for name, rows in quality.items() %}
<h3>Set {{ name }}: {{ rows[0].judged }} volumes made, {{ rows[0].rejected }} rejected, {{ rows[0].kept }} of them kept
all the same</h3>
<div class="scroll"><table><tr><th>measure</th><th>low</th><th>high</th><th>median of train cases</th>
<th>median of accepted volumes</th><th>judged</th><th>rejected</th><th>kept</th>
<th class="words">what it is</th></tr>
{% for row in rows[1:] %}<tr><td>{{ row.measure }}</td><td>{{ row.low }}</td><td>{{ row.high }}</td>
<td>{{ row.train_median }}</td><td>{{ row.accepted_median }}</td><td>{{ row.judged }}</td><td>{{ row.rejected }}</td>
<td>{{ row.kept }}</td><td class="words">{{ row.what }}</td></tr>{% endfor %}</table></div>
{% endfor %}</details>{% endif %}

<details class="part"><summary><h2>Cohort</h2></summary>
<div class="scroll"><table><tr><th>split</th><th>patients</th><th>cases</th><th>nodules</th></tr>
{% for row in cohort.splits %}<tr><td>{{ row.split }}</td><td>{{ row.patients }}</td><td>{{ row.cases }}</td>
<td>{{ row.nodules }}</td></tr>{% endfor %}</table></div>
{% if cohort.hosts.cases %}<p>{{ cohort.hosts.cases }} hosts of {{ cohort.hosts.patients }} patients besides: train
cases without marked lesions. They teach the generators and lend their bodies. They are in no arm as labelled data, and
in no test. What lies in them unmarked was learned as lung.</p>{% endif %}
{% if cohort.excluded %}<h3>Excluded: {{ cohort.n_excluded }} cases</h3>
<div class="scroll"><table><tr><th>cases</th><th class="words">reason</th></tr>
{% for reason, n in cohort.excluded %}<tr><td>{{ n }}</td><td class="words">{{ reason }}</td></tr>{% endfor %}
</table></div>
{% else %}<p>No case was excluded.</p>{% endif %}
{% if cohort.warned %}<h3>Warnings: used, but look at them</h3>
<div class="scroll"><table>
<tr><th>cases</th><th class="words">warning</th><th class="words">which</th></tr>
{% for warning, cases in cohort.warned.items() %}<tr><td>{{ cases|length }}</td><td class="words">{{ warning }}</td>
<td class="words">{{ cases[:shown]|join(", ") }}{% if cases|length > shown %} and {{ cases|length - shown }} more{%
endif %}</td></tr>{% endfor %}
</table></div>{% endif %}</details>

<details class="part"><summary><h2>Settings, versions, cost</h2></summary>
{% for section, content in config.items() %}<details><summary>{{ section }}</summary>
<pre>{{ pretty(content) }}</pre></details>
{% endfor %}
{% if versions %}<h3>Versions</h3><div class="scroll"><table>
<tr><th>package</th><th>version</th></tr>
{% for name, version in versions.items() %}<tr><td>{{ name }}</td><td>{{ version }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% if costs %}<h3 id="cost">Cost</h3>
<p class="quiet">All jobs whose results are in this report, {{ costs|selectattr("verb", "none")|sum("jobs") }} in all,
of {{ (costs|selectattr("verb", "none")|sum("seconds") / 3600)|number(1) }} hours;
jobs of a few seconds write none. A training that went on after a stop counts from its beginning. Memory is the peak of
one job: of its GPU where it had one, else of the host. Each job's own cost is in <code>costs.tsv</code>.</p>
<div class="scroll"><table>
<tr><th>stage</th><th>of</th><th>jobs</th><th>time, s</th><th>memory, MB</th>
<th class="words">ran on</th></tr>
{% for row in costs %}{% if row.verb is none %}
<tr><td><b>{{ row.stage }}</b></td><td>all of it</td><td><b>{{ row.jobs }}</b></td>
<td><b>{{ row.seconds|number(0) }}</b></td><td><b>{{ row.peak_mb|number(0) }}</b></td><td class="words"></td></tr>
{% else %}<tr><td>{{ row.stage }}: {{ row.verb }}</td><td>{{ row.of }}</td><td>{{ row.jobs }}</td>
<td>{{ row.seconds|number(0) }}</td><td>{{ row.peak_mb|number(0) }}</td><td class="words">{{ row.ran_on }}</td></tr>
{% endif %}{% endfor %}</table></div>{% endif %}</details>
</main>
<script>{{ script|safe }}</script>
</body>
</html>
"""


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
        masks=found.masks, spread=_spread,
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
