"""The data sheet of a synthetic set, with the sections of Gebru et al. 2021, "Datasheets for Datasets"
(arXiv 1803.09010). What a study cannot know (ethics approval, consent, funding) is left to the creators' notes."""

from collections.abc import Mapping

from lungsyn.sharing.writing import rendered

TEMPLATE = """
# {{ title }}

{{ summary|join(" ") }}

![Synthetic cases of the set, drawn at random: slices through a nodule, with the outline of its mask](preview.png)

| | |
|---|---|
| volumes | {{ count }}, of {{ voxels }} voxels of {{ spacing_mm }} mm: {{ field_of_view }} |
| nodules | {{ nodules }}{% if nodules %}, {{ diameters }} mm in diameter{% endif %} |
| learned from | {{ learned or "nothing: the generator is not trained" }} |
| quality control | {% if quality %}{{ quality.rejected }} of {{ quality.judged }} made volumes were rejected;
{#- #} {{ quality.kept }} rejected ones are in the set{% else %}none{% endif %} |
| can patients be recognised? | no sign of it in {{ checks|length }} checks; {{ hidden|length }} kinds of copies could
{#- #} not be looked for: [the audit](#can-patients-be-recognised-in-it) |
| licence | [{{ terms.licence }}]({{ licence_link }}) |

**What it is not**

- It shows nobody. It says nothing about how frequent, how large or how dangerous nodules are.
- It is not for diagnosis, and not for approving a device.
- No reader drew its masks. {{ "They came first, and the images were made to fit them." if masks_first else
  "Nodules were made with the images; lungs and body were found in these by rules." }}
- It is not proven to be anonymous.
- It does not look like real CT in every way: {{ fidelity|selectattr("unlike", "equalto", "yes")|list|length }} of
  {{ fidelity|rejectattr("unlike", "equalto", "not known")|list|length }} measures tell it from the CT of real patients
  ([how real it looks](#how-real-does-it-look)).
- It does not replace real test data.

## Motivation

**For what purpose was it made?** To train programs that find and outline lung nodules in CT, and to ask whether
synthetic cases help them. It belongs to the study “{{ study_name }}”.

**Who made it?** {{ terms.creators|join("; ") }}, with lungsyn {{ made.versions.lungsyn }}. {{ about }}

### Does it help a segmenter?

{{ utility_of(utility) }}

## Composition

**What is in it?** {{ count }} cases, each of them as NIfTI and, the same voxels, as DICOM.

| file | what |
|---|---|
| `nifti/imagesTr/{case}_0000.nii.gz` | CT in HU, int16 |
| `nifti/labelsTr/{case}.nii.gz` | mask: 0 background, 1 nodule |
{% for label in further %}
| `nifti/labelsTr_{{ label }}/{case}.nii.gz` | mask of {{ label }}: 0 or 1 |
{% endfor %}
| `nifti/dataset.json` | for nnU-Net: copy `nifti` to `$nnUNet_raw/Dataset501_Synthetic` |
| `nifti/cases.tsv` | for lungsyn: the cases, all of one patient named “synthetic” |
| `dicom/{case}/ct/` | the CT as a DICOM series |
| `dicom/{case}/nodules.dcm` | the nodules as a DICOM Segmentation, a segment for each |
| `preview.png` | the picture above |
| `cases.tsv` | a row for each case: size, nodules, diameters, the seed of its noise, what quality control said |
| `SHA256SUMS` | checksums: `sha256sum -c SHA256SUMS` |

**Are age, sex, scanner or disease of the patients known?** No, the study does not record them. The set may be unlike
your patients.

**Are there splits?** No. All cases come from one generator and are not independent: they are for training.

**Is anything wrong with it?** {% if quality %}{{ quality.judged }} volumes were made for {{ count }} cases.
Each was measured, and rejected where a measure lay outside the range of real cases.
{%- if tries %} A rejected one was made again with other noise, {{ tries }} time{{ "s" if tries != 1 }} at most.
{%- endif %} The last one
made is in the set whatever it is: {{ quality.rejected }} were rejected, {{ quality.kept }} of them are in the set.
{%- else %}What was made was not judged by quality control.{% endif %}


{% if quality_rows %}
{{ table(["measure", "least", "most", "rejected", "in the set all the same"],
         quality_rows, ["what", "low", "high", "rejected", "kept"]) }}

Least and most are the ends of the range of real cases. `cases.tsv` says which cases these are.
{% endif %}

### How real does it look?

{{ fidelity_of(fidelity) }}

### Can patients be recognised in it?

The verdict is *pass*. Every case was compared with the real cases that the generator learned from. The yardstick are
{{ held_out }} held-out patients, whom the generator never saw.

{{ table(["check", "result", "what was found"], checks|rejectattr("check", "equalto", "disguises")|list,
         ["check", "result", "sentence"]) }}

*Copies*: is a single one nearer to a real one than chance allows? *Beyond*: how many are closer to real ones than
nearly all held-out patients' are? *Closer*: is the set as a whole pulled to the patients it was made from? A *part* is
a small detail anywhere, an *outline* is where lungs and body end. *Membership*: does the generator's loss tell whom it
learned from?

**What could it find?** Disguised copies of training cases were planted. It found {{ seen|join("; ") }}.

{% if hidden %}
**What did it not look for?** Single copies of these kinds were not found reliably, so a pass says nothing of them:

{% for row in hidden %}
- {{ row.disguise }} ({{ "%.0f"|format(100 * row.recall) }} % found)
{% endfor %}
{% endif %}

A pass says that these attacks found nobody. It says nothing of others.

## Collection process

**What was it made from?**

{% for source in terms.sources %}
- {{ source }}
{% endfor %}

{% if simulated %}
The CT that were learned from are simulated. Of these data they have the contours of nodules, and nothing else.
{% endif %}

**How was it made?** {{ "First masks of body, lungs and nodules, then a CT that fits them." if masks_first else
"CT and nodules at once; then lungs and body were found in the CT by rules." }}

- Masks (`{{ masks_kind }}`): {{ masks_words }}. {{ masks_from }}
- Generator (`{{ generator_kind }}`): {{ generator_words }}.
{% if learned %}
- Training: {{ learned }}{% if watching %} ({{ watching }} of them only to choose among weights){% endif %}
{#- #}, seed {{ model.seed }}
{%- if model.images_seen is defined %}, {{ "{:,}".format(model.images_seen) }} patches{% endif %}
{%- if model.ran_on is defined %}, on {{ model.ran_on }}{% endif %}. Digest of the model: `{{ model.digest }}`.
{% endif %}
- Volumes: seed {{ study_seed }} of the study, and one for each volume in `cases.tsv`; on {{ made.ran_on }}.
- Code: lungsyn {{ made.versions.lungsyn }}, recipe `{{ made.recipe }}`, digest `{{ made.code }}`.

<details><summary>All settings</summary>

```yaml
{{ settings }}{{ preprocess }}{{ audit }}```

</details>

## Preprocessing, cleaning, labelling

The real cases were brought to voxels of {{ study_spacing_mm }} mm before anything was learned from them.
{% if window_hu %}
HU below {{ "%g"|format(window_hu[0]) }} and above {{ "%g"|format(window_hu[1]) }} were cut to these: the generator
knows no others.
{% endif %}
Each volume has its middle at 0 mm. No case was edited or labelled by hand.

## Uses

**Fit for:** more training cases for nodule segmentation, tests of programs and viewers, teaching, research on synthetic
data. **Not fit for:** diagnosis, how frequent or large nodules are, tests on which a claim about patients rests, reader
studies that hide what it is, an atlas of anatomy.

Test on real cases of your own what was trained with it.

## Distribution

The licence is [{{ terms.licence }}]({{ licence_link }}). Cite the creators, and the sources above. Every DICOM file
says that it is synthetic, in *Synthetic Data* (0008,001C), the patient's name and the descriptions. Leave these marks.

## Maintenance

The creators answer for it. Versions that made it:
{% for name, version in made.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}.

## Notes of the creators

{{ terms.notes or not_said }}
"""


def datasheet(told: Mapping) -> str:
    """The data sheet as Markdown. ``told``: what `sets.share_set` found."""
    return rendered(TEMPLATE, told)
