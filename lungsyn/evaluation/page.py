"""What makes a page of tables readable by everybody: its style, and the one script that sorts and copies its tables.

The page is whole without the script. Colours have a contrast of 4.5 or more on their ground. On paper all that is
folded is open.
"""

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

{% if sets %}<details class="part"><summary><h2>Synthetic sets side by side</h2></summary>
<p class="quiet">Distances are Fréchet's, in units of the floor: that of held-out real cases is 1. Coverage is the share
of train slices that have a synthetic one nearby, beside that of held-out ones. “Copies” are places as near to a train
case as planted copies. An attacker's AUC of 0.5 is chance. “Alone” and “added”: the Dice of each arm with this set, and
its difference to “{{ config.benchmark.arm }}”. Times are of one training and of one volume.</p>
<div class="scroll"><table>
<tr><th>set</th><th>size</th><th>generator</th><th>weights</th><th>training, s</th><th>a volume, s</th>
<th>memory of a volume, MB</th><th>axial</th><th>coronal</th><th>sagittal</th><th>nodules</th><th>coverage</th>
<th>verdict</th><th>copies</th><th>attacker's AUC</th><th>outlines</th><th class="words">alone</th>
<th class="words">added to real</th></tr>
{% for row in sets %}<tr><td>{{ row.set }}</td><td>{{ row.size }} %</td><td>{{ row.generator }}</td>
<td>{{ row.weights|number(0) }}</td><td>{{ row.training_s|number(0) }}</td><td>{{ row.volume_s|number(1) }}</td>
<td>{{ row.volume_mb|number(0) }}</td><td>{{ row.frechet_axial|number(1) }}</td>
<td>{{ row.frechet_coronal|number(1) }}</td><td>{{ row.frechet_sagittal|number(1) }}</td>
<td>{{ row.frechet_nodule|number(1) }}</td>
<td>{{ row.coverage|number(2) }}{% if row.coverage_floor is not none %} of
{{ row.coverage_floor|number(2) }}{% endif %}</td>
<td>{{ row.verdict }}</td><td>{{ row.copies|number(0) }}</td><td>{{ row.membership_auc|number(2) }}</td>
<td>{{ row.outlines or "" }}</td>
{% for real in ("no", "yes") %}<td class="words">{% for use in uses if use.set == row.set and use.size == row.size
and use.real == real %}{{ use.arm }}{% if comparisons|length > 1 %}, {{ use.segmenter }}{% endif %}:
{{ use.dice|number(3) }} ({{ signed(use.difference) }}){{ "; " if not loop.last }}{% endfor %}</td>{% endfor %}</tr>
{% endfor %}</table></div></details>{% endif %}

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

STYLE = """
body { max-width: 66rem; margin: 0 auto; padding: 1rem; color: #1a1a1a; background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 0; display: inline; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
a { color: #00558a; }
.answer { border-left: 5px solid #0072b2; background: #f3f7fa; padding: .6rem 1rem; margin: .8rem 0; }
.answer p { margin: .2rem 0; }
.answer .headline { font-size: 1.25rem; line-height: 1.4; font-weight: 600; }
.glance { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem; margin: .8rem 0; }
.glance dt { font-weight: 600; }
.glance dd { margin: 0; }
.part { border-top: 1px solid #ccc; padding: .5rem 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: right; padding: .3rem .55rem; border-bottom: 1px solid #e6e6e6; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; line-height: 1.2; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th.words, td.words { text-align: left; white-space: normal; min-width: 14rem; }
th button { all: unset; cursor: pointer; font-weight: bold; }
th button:hover { text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
button:focus-visible, summary:focus-visible, .scroll:focus-visible { outline: 2px solid #0072b2; }
button.copy { font: inherit; font-size: .8rem; color: #1a1a1a; background: #f3f3f3; border: 1px solid #767676;
              border-radius: 4px; margin: .3rem 0; cursor: pointer; }
.quiet, figcaption { color: #555; font-size: .9rem; }
figure { margin: 1.5rem 0; }
img { width: 100%; height: auto; display: block; }
pre { overflow-x: auto; background: #f7f7f7; padding: .8rem; font-size: .8rem; line-height: 1.35; }
summary { cursor: pointer; padding: .2rem 0; }
@media (max-width: 600px) {
  .glance { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .glance dd { margin-bottom: .5rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 11pt; }
  button.copy, .screen { display: none; }
  .scroll { overflow: visible; }
  table { font-size: 7pt; }
  th, td { padding: .1rem .25rem; white-space: normal; overflow-wrap: anywhere; }
  th.words, td.words { min-width: 0; }
  figure, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; }
}
"""

SCRIPT = """
"use strict";
const cells = row => [...row.cells].map(cell => cell.innerText.trim());

// A cell's number, for sorting: its first one; null where it has none, which stands last whatever the order.
function number(text) {
  const found = /^[<>~(]*\\s*([+\\u2212-]?[\\d,]*\\.?\\d+(?:e[+-]?\\d+)?)/i.exec(text);
  return found ? Number(found[1].replace(/,/g, "").replace("\\u2212", "-")) : null;
}

function sort(table, column) {
  const header = table.rows[0].cells[column], rows = [...table.rows].slice(1);
  const falling = header.getAttribute("aria-sort") === "ascending";
  for (const other of table.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const texts = new Map(rows.map(row => [row, row.cells[column].textContent.trim()]));
  const numeric = rows.every(row => ["", "-"].includes(texts.get(row)) || number(texts.get(row)) !== null);
  const value = row => numeric ? number(texts.get(row)) : texts.get(row) || null;
  rows.sort((one, two) => {
    const [a, b] = [value(one), value(two)];
    if (a === null || b === null) return (a === null) - (b === null);
    return (falling ? -1 : 1) * (numeric ? a - b : a.localeCompare(b, undefined, {numeric: true}));
  });
  rows.forEach(row => row.parentNode.append(row));
}

async function copy(table, button) {
  const text = [...table.rows].map(row => cells(row).map(cell => cell.replace(/\\s+/g, " ")).join("\\t")).join("\\n");
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(table);  // a browser that does not let a page copy: the user's key does
    button.textContent = "Selected: copy it with Ctrl+C";
  }
}

for (const table of document.querySelectorAll("table")) {
  [...table.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort";
    button.append(...header.childNodes);
    button.onclick = () => sort(table, column);
    header.append(button);
  });
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy table";
  button.onclick = () => copy(table, button);
  table.closest(".scroll").before(button);
}
for (const wide of document.querySelectorAll(".scroll, pre")) wide.tabIndex = 0;

let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach(one => { one.open = true; });
});
addEventListener("afterprint", () => folded.forEach(one => { one.open = false; }));
function unfold() {
  const target = document.getElementById(location.hash.slice(1));
  target?.closest("details")?.setAttribute("open", "");
  target?.scrollIntoView();
}
addEventListener("hashchange", unfold);
unfold();
"""
