import copy
import re
from pathlib import Path

import pytest
import yaml

from lungsyn.errors import InputError
from lungsyn.settings.checking import check, from_json, read, schema_yaml
from lungsyn.settings.section import as_json
from lungsyn.settings.study import Config
from lungsyn.settings.synthesis import Synthesis
from tests.conftest import ROOT

SHIPPED = yaml.safe_load((ROOT / "config.yaml").read_text())
SWIN = SHIPPED["segmenters"]["unet"] | {"network": "swin_unetr", "channels": [12]}
UNFOUND = {"real": True, "synthetic": "untargeted", "found": {"least_dice": 0.5}}
SHALLOW_DYNUNET = SHIPPED["segmenters"]["unet"] | {"network": "dynunet", "channels": [4, 8]}


def merged(base, overlay):
    """What `--configfile` does: dicts are merged, everything else is replaced."""
    if not isinstance(overlay, dict) or not isinstance(base, dict):
        return overlay
    return base | {key: merged(base.get(key), value) for key, value in overlay.items()}


def changed(path: str, value):
    *parents, last = path.split(".")
    node = raw = copy.deepcopy(SHIPPED)
    for key in parents:
        node = node[key]
    node[last] = value
    return raw


def test_the_shipped_config_is_good():
    assert check(SHIPPED).study.name == "phantom"


@pytest.mark.parametrize("path", sorted((ROOT / "workflow/experiments").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_is_good(path):
    assert check(merged(SHIPPED, yaml.safe_load(path.read_text())))


BAD = [
    ("cohort.spltt", 1, r"cohort\.spltt: unknown key; did you mean 'split'"),
    (
        "generators.patch_ddpm.images",
        "many",
        r"generators\.patch_ddpm\.images is 'many': input should be a valid integer",
    ),
    ("generators.patch_ddpm.nodule_patches", 1.5, r"nodule_patches is 1\.5: input should be less than or equal to 1"),
    ("synthesis.steps", 0, r"synthesis\.steps is 0: input should be greater than or equal to 1"),
    ("synthesis.sampler", "heun", r"sampler is 'heun': input should be 'ddpm', 'ddim', 'dpmpp_2m' or 'euler'"),
    ("generators.patch_ddpm.patch_voxels", 28, r"multiple of 8"),
    (
        "generators.patch_ddpm",
        SHIPPED["generators"]["patch_ddpm"] | {"patch_voxels": 24, "context_factor": 4},
        r"multiple of 16 for context_factor 4",
    ),
    ("cohort.split", {"train": 0.8, "validation": 0.2, "test": 0}, r"no patient for train, validation or test"),
    ("generators.patch_ddpm.patch_voxels", 96, r"288 mm, more than a chest is deep \(250 mm\): lower it"),
    ("generators.patch_ddpm.window_hu", [-500, 400], r"must start at -1000 HU \(air\) or below"),
    ("arms.synthetic.synthetic", "nosuch", r"'nosuch', which does not exist: it must be one of targeted, untargeted"),
    ("arms.synthetic", {"real": False}, r"an arm needs real data, a synthetic set, or both"),
    ("benchmark.arm", "nosuch", r"benchmark\.arm is 'nosuch'"),
    ("benchmark.arm", "real+synthetic", r"itself needs the benchmark's scores: choose an arm without it"),
    ("cohort.split.test", 0.5, r"the three fractions must sum to 1"),
    ("cohort.dataset", "lidc", r"set cohort\.root to their folder"),
    (
        "cohort.dataset",
        "lird",
        r"cohort\.dataset: no reader is called 'lird': it must be one of lidc, nifti, phantom, or",
    ),
    ("cohort.root", "/data", r"dataset 'phantom' reads no files: set cohort\.dataset to lidc or nifti, or remove"),
    ("cohort.labels", ["lungs"], r"cohort\.labels: every case has 'lungs', which is found by rules: name only further"),
    ("cohort.labels", ["Air way"], r"cohort\.labels: 'Air way' is no name of a label: use small letters"),
    ("sets.targeted.generator", "gan", r"sets\.targeted\.generator is 'gan'"),
    ("figures.case_arms", ["real", "unreal"], r"figures\.case_arms is 'unreal'"),
    ("generators.patch_ddpm.kind", "gan", r"generators\.patch_ddpm\.kind is 'gan': it must be one of 'cascade_ddpm'"),
    ("arms.real.synthetic_share", 0.5, r"arms\.real: synthetic_share 0\.5 divides .* only one kind: remove it"),
    ("arms.real.pretrain", 0.5, r"arms\.real: pretrain 0\.5 is of synthetic cases, then .* only one kind: remove it"),
    ("arms.real+synthetic.pretrain", 0.5, r"pretrain says when .* and synthetic_share how many: remove one"),
    ("arms.real+synthetic.pretrain", 1.0, r"pretrain is 1\.0: input should be less than 1"),
    ("arms.real.found", {"least_dice": 0.5}, r"arms\.real: found chooses among synthetic cases, and the arm has none"),
    ("arms.synthetic.found", {"hard_times": 2}, r"arms\.synthetic\.found\.least_dice: missing; add it"),
    (
        "arms.real",
        UNFOUND,
        r"arms\.real\.found asks what the benchmark finds, and this arm is the benchmark: remove it",
    ),
    ("arms.synthetic.mixing", {"way": "paste"}, r"arms\.synthetic: mixing is of real cases, and the arm has none"),
    (
        "arms.real.mixing",
        {"way": "cutmix"},
        r"arms\.real\.mixing\.way is 'cutmix': input should be 'carvemix', 'paste' or 'twin'",
    ),
    (
        "arms.real.mixing",
        {"way": "twin"},
        r"arms\.real\.mixing is of real cases and their twins: arms\.real\.synthetic must",
    ),
    ("arms.real+synthetic.mixing", {"way": "twin"}, r"must be a set whose conditions are twin"),
    (
        "arms.real.match_noise",
        True,
        r"arms\.real: match_noise gives synthetic cases .* the arm lacks either: remove it",
    ),
    ("arms.synthetic.match_noise", True, r"arms\.synthetic: match_noise gives"),
    ("segmenters.unet.channels", [4] * 5, r"segmenters\.unet: patch_voxels is 24; .* a multiple of 16: change"),
    (
        "segmenters.unet",
        SHIPPED["segmenters"]["unet"] | {"channels": [4, 8, 8, 8, 8], "patch_voxels": 16},
        r"segmenters\.unet: patch_voxels is 16; unet with 5 levels needs at least 32: change patch_voxels or remove",
    ),
    ("training_percent", [50, 50], r"training_percent is \[50, 50\]: name each size once"),
    ("cohort.split", {"train": 0, "validation": 0.5, "test": 0.5}, r"no patient for train, validation or test"),
    ("segmenters.deep", SHALLOW_DYNUNET, r"segmenters\.deep: channels is .* dynunet needs 3 levels or more"),
    ("segmenters.flat", SHALLOW_DYNUNET | {"network": "unet", "channels": [4]}, r"unet needs 2 levels or more"),
    ("segmenters.unet.network", "swin_unetr", r"\[16, 32, 64\]; swin_unetr needs one number, a multiple of 12: \[12\]"),
    ("segmenters.swin", SWIN, r"segmenters\.swin: patch_voxels is 24; swin_unetr .* a multiple of 32"),
    ("segmenters.unet.kind", "transunet", r"segmenters\.unet\.kind is 'transunet': it must be one of .*'monai'"),
    ("segmenters.ours", {"kind": "command", "train": "true"}, r"segmenters\.ours\.predict: missing; add it"),
    ("segmenters.ours", {"kind": "command", "train": "true", "predict": "true", "steps": 5}, r"ours\.steps: no key of"),
    ("segmenters.unet.steps", 0, r"segmenters\.unet\.steps is 0: input should be greater than or equal to 1"),
    ("segmenters.unet.stepz", 3, r"segmenters\.unet\.stepz: unknown key; did you mean 'steps'"),
    ("segmenters.unet.images", 3, r"segmenters\.unet\.images: no key of this section"),
    ("segmenters.unet", 3, r"segmenters\.unet is 3: input should be a valid dictionary"),
    ("segmenters.unet.window_hu", [0, 0], r"window_hu.*\[0\.0, 0\.0\] must rise"),
    ("synthesis.steps", 1001, r"synthesis\.steps is 1001, more than the 1000 of generators\.patch_ddpm"),
    ("synthesis.guidance_scale", 2.0, r"generators\.patch_ddpm never learns without masks"),
    ("segmenters.unet.arms", ["synthetic"], r"segmenters\.unet\.arms lacks 'real' \(benchmark\.arm\)"),
    ("segmenters.unet.arms", ["real", "unreal"], r"segmenters\.unet\.arms is 'unreal', which does not exist"),
    ("segmenters.unet.training_percent", [50], r"training_percent is 50, which does not exist: it must be one of 100"),
    ("training_percent", [0], r"training_percent\.0 is 0: input should be greater than or equal to 1"),
    ("generators.pasted", {"kind": "copy_paste", "images": 3}, r"generators\.pasted\.images: no key of this section"),
    ("compute", {"device": "cpu", "gpus": 4}, r"compute: gpus is 4, but device is 'cpu': set gpus to 1"),
    ("segmenters", {"a/b": SHIPPED["segmenters"]["unet"]}, r"becomes a folder"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[f"{path}={value}"[:50] for path, value, _ in BAD])
def test_a_bad_value_names_key_value_rule_and_way_out(path, value, message):
    with pytest.raises(InputError, match=message):
        check(changed(path, value))


OURS = {"kind": "command", "train": "true", "predict": "true"}


@pytest.mark.parametrize("segmenter", [OURS, {"kind": "nnunet"}], ids=["command", "nnunet"])
@pytest.mark.parametrize(
    ("way", "refused"),
    [
        ({"pretrain": 0.5}, "pretrain"),
        ({"mixing": {"way": "paste"}}, "mixing"),
        ({"match_noise": True}, "match_noise"),
        ({"found": {"least_dice": 0.5}}, ""),
    ],
    ids=["pretrain", "mixing", "match_noise", "found"],
)
def test_a_segmenter_is_asked_for_no_way_of_use_that_it_cannot_do(segmenter, way, refused, monkeypatch):
    """Unless it takes no part in the arm. Cases that are left out are left out of any segmenter's data."""
    monkeypatch.setattr("lungsyn.segmenters.nnunet.find_spec", lambda name: name)
    raw = changed("segmenters.ours", segmenter)
    raw["arms"]["odd"] = {"real": True, "synthetic": "untargeted"} | way
    if refused:
        with pytest.raises(InputError, match=rf"'\w+', which cannot do arms\.odd\.{refused}: leave the arm out of seg"):
            check(raw)
        raw["segmenters"]["ours"] = segmenter | {"arms": ["real", "synthetic"]}
    assert check(raw).arms["odd"].ways == {refused} - {""}


@pytest.mark.parametrize("key", ["loader_processes", "patches_per_batch"])
@pytest.mark.parametrize("value", [-1, "many", 1.5])
def test_a_value_that_is_neither_a_number_nor_auto_is_one_mistake(key, value):
    with pytest.raises(InputError) as told:
        check(changed(f"compute.{key}", value))
    _, line = str(told.value).splitlines()
    assert line.startswith(f"  compute.{key} is {value!r}: input should be ") and line.endswith(", or auto")


def test_a_missing_key_is_named():
    raw = copy.deepcopy(SHIPPED)
    del raw["study"]["name"]
    with pytest.raises(InputError, match=r"study\.name: missing; add it"):
        check(raw)


def test_a_segmenter_says_only_what_differs():
    study = check(changed("segmenters.deep", {"network": "dynunet"}))
    shipped, deep = study.segmenters["unet"], study.segmenters["deep"]
    assert {key for key in type(deep).model_fields if getattr(deep, key) != getattr(shipped, key)} == {"network"}


OF_THE_PAGE = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/segmenters.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("overlay", OF_THE_PAGE)
def test_the_segmenters_of_the_page_are_good(overlay, monkeypatch):
    monkeypatch.setattr("lungsyn.segmenters.nnunet.find_spec", lambda name: name)
    assert check(merged(SHIPPED, yaml.safe_load(overlay)))


def test_a_segmenter_whose_package_is_missing_is_told_before_any_job(monkeypatch):
    monkeypatch.setattr("lungsyn.segmenters.nnunet.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"segmenters\.theirs\.kind is 'nnunet', but nnU-Net is not installed: pip"):
        check(changed("segmenters.theirs", {"kind": "nnunet"}))


def test_all_mistakes_are_told_at_once():
    raw = changed("synthesis.steps", 0)
    raw["study"]["sed"] = 1
    with pytest.raises(InputError, match=r"(?s)study\.sed.*synthesis\.steps"):
        check(raw)


def test_a_section_survives_the_command_line():
    study = check(SHIPPED)
    assert from_json(Config, as_json(study)) == study
    with pytest.raises(InputError, match="stepz"):
        from_json(Synthesis, '{"stepz": 3}')


def test_the_schema_file_is_the_models_schema():
    written = (ROOT / "workflow/schemas/config.schema.yaml").read_text()
    assert written == schema_yaml(), "run: lungsyn config schema --out workflow/schemas/config.schema.yaml"


def test_every_key_is_described():
    schema = Config.model_json_schema()
    plain = {"Config", "Compute"}
    for name, model in schema["$defs"].items():
        for key, field in model["properties"].items():
            nested = "$ref" in field or "properties" in field
            obvious = key in ("learning_rate", "device", "arms", "split", "phantom", "nodules", "preprocess")
            assert nested or obvious or name in plain or "description" in field, f"{name}.{key} has no description"


@pytest.mark.parametrize(("text", "message"), [("a: [b", "not YAML"), ("", "holds no keys"), ("- a", "holds no keys")])
def test_a_file_that_is_no_config_is_named(tmp_path, text, message):
    (tmp_path / "overlay.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"overlay\.yaml: {message}"):
        read([ROOT / "config.yaml", tmp_path / "overlay.yaml"])


def test_frozen():
    with pytest.raises(Exception, match="frozen"):
        check(SHIPPED).study.seed = 3


def test_pasting_needs_a_real_background():
    raw = changed("generators.pasted", {"kind": "copy_paste"})
    raw["sets"]["pasted"] = {"generator": "pasted", "conditions": "untargeted", "volumes": 3}
    with pytest.raises(InputError, match=r"sets\.pasted\.conditions is 'untargeted', but .* so it must be inpainted"):
        check(raw)
    raw["sets"]["pasted"]["conditions"] = "inpainted"
    assert check(raw).generators["pasted"].kind == "copy_paste"


def test_the_benchmark_s_segmenter_has_every_size():
    raw = changed("training_percent", [25, 100])
    raw["segmenters"]["small"] = raw["segmenters"]["unet"] | {"training_percent": [25], "arms": ["real", "synthetic"]}
    study = check(raw)
    assert study.sizes_of("small") == [25] and study.sizes_of("unet") == [25, 100]
    assert study.arms_of("small") == ["real", "synthetic"] and study.arms_of("unet") == list(raw["arms"])
    raw["segmenters"]["unet"]["training_percent"] = [100]
    with pytest.raises(InputError, match=r"segmenters\.unet\.training_percent lacks \[25\]: the benchmark's segmenter"):
        check(raw)


def test_a_phantom_is_called_one_whatever_the_study_s_name():
    assert check(SHIPPED).title.name == "phantom"
    assert check(changed("study.name", "first try")).title.name == "first try (phantom)"
    real = merged(SHIPPED, {"study": {"name": "ours"}, "cohort": {"dataset": "nifti", "root": "/data"}})
    assert check(real).title.name == "ours"


@pytest.mark.parametrize("name", ["phantom", "Phantom, second try", "our PHANTOMs"])
def test_patients_are_not_called_a_phantom(name):
    """An overlay for real data that has no name would keep that of the shipped study."""
    overlay = {"study": {"name": name}, "cohort": {"dataset": "nifti", "root": "/data"}}
    with pytest.raises(InputError, match=r"study\.name is .*pictures of patients .* give the study a name of its own"):
        check(merged(SHIPPED, overlay))


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("cohort: {exclude: {0001: x}}", r"cohort\.exclude has the name 1, which YAML takes for a number: write it in"),
        ("cohort: {exclude: {no: x}}", r"cohort\.exclude has the name False, which YAML takes for yes or no"),
        ("cohort: {exclude: {1.0e+5: x}}", r"cohort\.exclude has the name 100000\.0, which YAML takes for a number"),
        ("cohort: {exclude: {2024-11-30: x}}", r"has the name 2024-11-30, which YAML takes for a date"),
        (
            "cohort: {exclude: {2024-11-30 10:00:00: x}}",
            r"has the name 2024-11-30 10:00:00, which YAML takes for a date",
        ),
        ("cohort: {exclude: {~: x}}", r"cohort\.exclude has the name None, which YAML takes for nothing"),
        ("cohort: {exclude: {a: 3}}", r"cohort\.exclude\.a is 3, which YAML takes for a number"),
        ("cohort: {exclude: {a: }}", r"cohort\.exclude\.a is None, which YAML takes for nothing"),
        ("study: {name: 2024}", r"study\.name is 2024, which YAML takes for a number: write it in quotes"),
        ("study: {name: 2024-11-30}", r"study\.name is 2024-11-30, which YAML takes for a date"),
        ("arms: {on: {real: true}}", r"arms has the name True, which YAML takes for yes or no"),
        ("arms: {more: {real: true, synthetic: 1}}", r"arms\.more\.synthetic is 1, which YAML takes for a number"),
        ("sets: {1: {generator: patch_ddpm, conditions: untargeted, volumes: 2}}", r"sets has the name 1, which YAML"),
        ("segmenters: {unet: {kind: 3}}", r"segmenters\.unet\.kind is 3, which YAML takes for a number"),
        ("segmenters: {2: {network: unet}}", r"segmenters has the name 2, which YAML takes for a number"),
        ("benchmark: {arm: off}", r"benchmark\.arm is False, which YAML takes for yes or no"),
        ("figures: {case_arms: [real, 12]}", r"figures\.case_arms\.1 is 12, which YAML takes for a number"),
    ],
)
def test_what_yaml_makes_of_a_name_without_quotes_is_said(overlay, message):
    with pytest.raises(InputError, match=message):
        check(merged(SHIPPED, yaml.safe_load(overlay)))


def test_a_name_in_quotes_is_a_name():
    exclude = yaml.safe_load("{'0001': x, 'no': y}")
    assert check(changed("cohort.exclude", exclude)).cohort.exclude == {"0001": "x", "no": "y"}


def test_data_beside_a_phantom_is_a_mistake():
    """Real scans would be read at the phantom's settings, under its name."""
    with pytest.raises(InputError, match=r"remove cohort\.root"):
        check(changed("cohort.root", "/data"))


def test_a_root_may_begin_at_home():
    real = merged(SHIPPED, {"study": {"name": "ours"}, "cohort": {"dataset": "nifti", "root": "~/scans"}})
    assert check(real).cohort.root == Path.home() / "scans"
    real["cohort"]["root"] = "~nobody-of-that-name/scans"  # left as it is: no such folder, which is told later
    assert check(real).cohort.root == Path("~nobody-of-that-name/scans")
