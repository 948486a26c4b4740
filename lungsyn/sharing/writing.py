"""What both cards share: how their text is made, and sentences that stand in both."""

import re
from collections.abc import Mapping, Sequence

import yaml
from jinja2 import Environment, StrictUndefined

KEYWORDS = ["synthetic data", "computed tomography", "chest", "lung nodules", "segmentation"]
TAGS = ["medical", *(word.replace(" ", "-") for word in KEYWORDS)]  # as Hugging Face has them
WORDS = {
    "about": "lungsyn implements the study of Khadra and Türkbey "
    "([arXiv 2410.12542](https://arxiv.org/abs/2410.12542)) with generators, statistics and an audit of its own.",
    "not_said": "None were given. So it is not said here whether an ethics committee approved the use of the source "
    "data, whether patients consented to it, and who paid for it.",
}
MACROS = """
{%- macro utility_of(trials) %}
{% for trial in trials %}
{{ trial.headline }} Segmenter: `{{ trial.segmenter }}` ({{ trial.kind }}).

{{ table(["trained on", "arm", "mean Dice", "difference", "interval", "interval with trainings", "p"],
         trial.rows, ["trained_on", "arm", "dice", "difference", "interval", "trainings", "p"]) }}

{% for sentence in trial.sentences %}
- {{ sentence }}
{% endfor %}

{% endfor %}
{% if trials %}
Differences are to the first arm, paired by test case. The first interval ({{ confidence }} %) is over patients, the
second over patients and trainings; “-” is one that cannot be given. p is over both, corrected for the number of arms.
All this is about these segmenters and these test patients.
{% else %}
No segmenter was trained with it.
{% endif %}
{% endmacro %}
{% macro fidelity_of(rows) %}
{{ table(["measure", "synthetic", "floor: real patients", "ratio", "unlike"],
         rows, ["measure", "synthetic", "floor", "ratio", "unlike"]) }}

Each measure says how far synthetic cases are from the real training cases. The floor is the same measure of real
patients whom the generator never saw. Unlike: whether the two differ by more than chance. In brackets are 95 %
intervals. Coverage is better when it is high; of the other distances less is more real. MS-SSIM is about variety: far
above its floor, cases are too much alike.
{% endmacro -%}
"""


def rendered(template: str, told: Mapping) -> str:
    """A Markdown template (Jinja) with what is ``told`` in it; several empty lines become one."""
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(MACROS + template).render(WORDS | dict(told), table=table)
    return re.sub(r"\n{3,}", "\n\n", text)


def table(header: Sequence[str], rows: Sequence[Mapping], columns: Sequence[str]) -> str:
    """A Markdown table of these columns of ``rows``."""
    lines = [header, ["---"] * len(header), *([_cell(row[key]) for key in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value) -> str:
    return one_line("" if value is None else str(value)).replace("|", r"\|")


def one_line(text: str) -> str:
    """A user's text without line breaks, which would end a heading or a list."""
    return " ".join(text.split())


def as_yaml(settings: Mapping) -> str:
    return yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=110)
