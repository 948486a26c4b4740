"""The card of a generator's model, with the sections of Mitchell et al. 2019, "Model Cards for Model Reporting"
(arXiv 1810.03993)."""

from collections.abc import Mapping

from lungsyn.sharing.writing import rendered

TEMPLATE = """
# {{ title }}

{{ summary|join(" ") }}

```python
import lungsyn
from lungsyn.settings.synthesis import Synthesis

synthesis = Synthesis({% for key, value in synthesis.items() %}{{ key }}={{ value|pprint }}{{ ", " if not loop.last }}
{%- endfor %})
generator = lungsyn.load_generator("model.safetensors", synthesis=synthesis)
case = lungsyn.open_case("a/case")  # whose masks of {{ needs|join(", ") }} the CT is to fit, {{ study_spacing_mm }} mm
scene = lungsyn.Scene(case.labels, case.affine)
made = lungsyn.as_case(generator.sample(scene, seed=1), scene)
lungsyn.write_case("made/one", made)
```

## Model details

- **Made by** {{ terms.creators|join("; ") }}, with lungsyn {{ model.versions.lungsyn }}. {{ about }}
- **Kind** {{ generator_words }} (`{{ generator_kind }}`).
- **Training** {{ learned }}{% if watching %} ({{ watching }} of them only to choose among weights){% endif %}
{#- #}, seed {{ model.seed }}
{%- if model.images_seen is defined %}, {{ "{:,}".format(model.images_seen) }} patches{% endif %}
{%- if model.ran_on is defined %}, on {{ model.ran_on }}{% endif %}
{%- if model.cost is defined and model.cost.seconds is defined %}, {{ "%.1f"|format(model.cost.seconds / 60) }} minutes
{%- endif %}.
- **Code** recipe `{{ model.recipe }}`, digest `{{ model.code }}`; versions:
  {% for name, version in model.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}.
- **Licence** [{{ terms.licence }}]({{ licence_link }}).
- **Study** “{{ study_name }}”, seed {{ study_seed }}.

## Intended use

More training cases for programs that outline lung nodules, tests of programs, research on synthetic data. The masks are
yours to choose. **Out of scope:** diagnosis, the look of a nodule that somebody has, anatomy that no mask leads, other
parts of the body, other spacings than {{ study_spacing_mm }} mm.

**A set that you make with it is not audited.** Masks taken from patients give these patients' outlines away, whatever
the generator does. Audit each set before you share it.

## Factors

What is made depends on the masks: their sizes, places and number. Scanner, kernel, dose, contrast, age, sex and disease
of the training patients are in the weights and cannot be chosen. None of them was recorded or balanced.

## Metrics

Quality control: the share of made volumes of which a measure lies outside the range of real cases. Fidelity: distance
to the real training cases beside the same distance of other real patients. Utility: Dice of segmenters on real test
cases. Membership: how well an attacker tells training patients from others by the loss.

## Evaluation data

Validation and test patients of the same study, whom the generator never saw: {{ test_patients }} test patients for the
segmenters.

## Training data

{{ learned }}, brought to voxels of {{ study_spacing_mm }} mm.

{% for source in terms.sources %}
- {{ source }}
{% endfor %}

{% if simulated %}
The CT are simulated. Of these data they have the contours of nodules, and nothing else.
{% endif %}

## Quantitative analyses

{% for set in sets %}
### Set {{ set.name }}

{{ set.masks }}.

{{ set.quality.rejected }} of {{ set.quality.judged }} made volumes were rejected by quality
control. Could this set be shared? The audit of the set says *{{ set.verdict.result }}*.

{% for check in set.verdict.checks if check.result != "pass" %}
- {{ check.check }} ({{ check.result }}): {{ check.sentence }}
{% endfor %}

{{ utility_of(set.utility) }}

{{ fidelity_of(set.fidelity) }}

{% else %}
No set of this generator was audited.
{% endfor %}

## Ethical considerations

**Does the model give patients away?** {{ sentence }}

The attack asks for the loss on each patient's CT (Yeom et al.
2018; Carlini et al. 2023). It trains no shadow models. An attacker who does may do better: a pass is no proof of
privacy. The model file holds weights and settings, and no name or digest of a training case.

A generator can make CT that look real. Say that they are synthetic wherever they go.

## Caveats and recommendations

Test on real cases of your own whatever you train with it. Look at what it makes from your masks before you use it:
masks unlike those of the training cases may give odd CT.

## Notes of the creators

{{ terms.notes or not_said }}

## Settings

<details><summary>Of the generator, and of how its sets were made</summary>

```yaml
{{ settings }}{{ preprocess }}```

</details>

`sha256sum -c SHA256SUMS` checks the files.
"""


def modelcard(told: Mapping) -> str:
    """The model card as Markdown. ``told``: what `models.share_model` found."""
    return rendered(TEMPLATE, told)
