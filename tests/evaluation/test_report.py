import base64
import json
import re
from html.parser import HTMLParser

import pytest

from lungsyn.costs import COLUMNS, totals
from lungsyn.evaluation import answer, report
from lungsyn.evaluation.page import SCRIPT
from lungsyn.settings.study import null_arms

CONFIG = {
    "study": {"name": "phantom", "seed": 1}, "replicates": 2,
    "benchmark": {"arm": "real", "segmenter": "unet"},
    "evaluation": {"bootstrap": 2000, "confidence": 0.95},
    "quality": {"tries": 3, "false_rejections": 0.05},
    "arms": {"real": {"real": True, "synthetic": None}, "synthetic": {"real": False, "synthetic": "a"},
             "real+synthetic": {"real": True, "synthetic": "b"},
             "real-reseeded": {"real": True, "reseeded": True}},
}  # fmt: skip
TWO_WARNINGS = "the left lung meets the image's border | <odd> label values 1, 2"
COHORT = [
    {"case": "a", "patient": "p", "split": "train", "n_nodules": "2", "status": "included", "reason": "",
     "warnings": TWO_WARNINGS},
    {"case": "b", "patient": "p", "split": "train", "n_nodules": "1", "status": "included", "reason": "",
     "warnings": "<odd> label values 1, 2"},
    {"case": "c", "patient": "q", "split": "", "n_nodules": "", "status": "excluded", "reason": "slices <missing>",
     "warnings": "of a case that is not used"},
]  # fmt: skip
QUALITY = [
    {"measure": "any", "what": "", "low": "", "high": "", "train_median": "", "accepted_median": "", "judged": "14",
     "rejected": "3", "kept": "1"},
    {"measure": "lung_hu", "what": "median <of> lungs", "low": "-900", "high": "-700", "train_median": "-810",
     "accepted_median": "-820", "judged": "14", "rejected": "3", "kept": "1"},
]  # fmt: skip
JOB = dict.fromkeys(COLUMNS) | {"stage": "segmentation", "verb": "train", "segmenter": "unet", "seconds": 1800.0,
                                "host_mb": 900, "ran_on": "cpu (x86_64)"}  # fmt: skip
COSTS = [
    JOB,
    JOB | {"arm": "real-100", "device_mb": 7000, "ran_on": "cuda (H200)"},
    JOB | {"verb": "predict", "seconds": 60.0},
    JOB | {"stage": "cohort", "verb": "prepare", "segmenter": None},
]
HOSTILE = '<script>alert("x")</script>'


class Parser(HTMLParser):
    """Collects tags, the addresses they load, and whether every tag that opens also closes."""

    def __init__(self):
        super().__init__()
        self.tags, self.loaded, self.open = set(), [], []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.loaded += [value for key, value in attributes if key in ("src", "href", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_null_is_what_differs_by_its_random_draws_alone(comparison):
    """Another arm's control says nothing about the benchmark's chance."""
    arms = CONFIG["arms"] | {"synthetic": CONFIG["arms"]["synthetic"] | {"reseeded": True}}
    said = answer.sentences(comparison, CONFIG | {"arms": arms})
    assert [s.startswith("“real-reseeded”, the null arm") for s in said] == [False, False, False, True]
    assert "-0.2" not in answer.uncertainty(comparison, CONFIG | {"arms": arms})


@pytest.fixture
def html(comparison, big_study, tmp_path):
    (tmp_path / "a.png").write_bytes(b"picture")
    config = CONFIG | {"study": {"name": HOSTILE, "seed": 1}}
    found = report.Findings(
        {"unet": comparison}, {"unet": big_study["strata"]}, COHORT, quality={"a": QUALITY}, versions={"numpy": "2"},
        pictures=[{"file": tmp_path / "a.png", "caption": words} for words in (f"first {HOSTILE}", "second")],
        costs=totals(COSTS),
    )  # fmt: skip
    return report.build(HOSTILE, json.dumps(config), found)


def test_one_file_that_loads_nothing_and_runs_its_own_script_only(html):
    parser = Parser()
    parser.feed(html)
    assert not parser.open
    assert html.count("<script") == 1 and f"<script>{SCRIPT}</script>" in html and "link" not in parser.tags
    assert not re.search("fetch|XMLHttp|import", SCRIPT)
    assert [address for address in parser.loaded if not address.startswith("#")] == [
        "data:image/png;base64," + base64.b64encode(b"picture").decode()
    ] * 2
    assert "http://" not in html and "https://" not in html and "url(" not in html


def test_names_are_escaped(html):
    assert HOSTILE not in html and "&lt;script&gt;" in html and "slices &lt;missing&gt;" in html
    assert "None" not in html.split("Settings, versions, cost")[0]


def test_without_provenance_or_pictures(comparison):
    html = report.build("t", json.dumps(CONFIG), report.Findings({"unet": comparison, "swin": comparison}))
    assert "Segmenter: swin" in html and "No case was excluded." in html


def test_a_verdict_is_shown_with_its_numbers_and_its_sentence(comparison):
    check = {"check": "nodule: beyond", "value": 0.01234, "low": 0.002, "high": 0.04, "threshold": 0.05,
             "result": "pass", "sentence": "2 of 162 <synthetic> nodules"}  # fmt: skip
    control = {"kind": "nodule", "synthetic": 162, "held_out": 80, "train": 120, "planted": 20, "recall": 0.95,
               "false_alarms": 0.0123}  # fmt: skip
    verdicts = [
        {"set": name, "size": 50, "held_out_splits": ["validation", "test"], "result": result,
         "checks": [check, check | {"low": None, "threshold": None}],
         "controls": [control, control | {"false_alarms": None}], "not_found": ["rotated by 20 degrees"]}
        for name, result in (("good", "pass"), ("bad", "fail"), ("unknown", "blind"))
    ]  # fmt: skip
    html = report.build("t", json.dumps(CONFIG), report.Findings({"unet": comparison}, verdicts=verdicts))
    parser = Parser()
    parser.feed(html)
    assert not parser.open
    for words in ("good, 50 %", "no sign that", "bad, 50 %", "do not share it", "cannot be told", "0.0123",
                  "0.002 to 0.04", "2 of 162 &lt;synthetic&gt; nodules", "95 % found", "rotated by 20 degrees",
                  "1.2 % of random splits"):  # fmt: skip
        assert words in html, words
    assert "validation and test cases" in html


def test_what_each_arm_is_trained_on_is_said_in_words(comparison):
    arms = CONFIG["arms"] | {"pre": {"real": True, "synthetic": "b", "pretrain": 0.25, "mixing": {"way": "paste"}}}
    found = {"least_dice": 0.3, "hard_times": 3}
    arms["twins"] = {"real": True, "synthetic": "b", "synthetic_share": 0.0, "mixing": {"way": "twin", "share": 1}}
    arms["quiet"] = {"real": True, "synthetic": "b", "match_noise": True}
    arms["hard"] = {"real": True, "synthetic": "b", "synthetic_share": 0.5, "found": found}
    html = report.build("t", json.dumps(CONFIG | {"arms": arms}), report.Findings({"unet": comparison}))
    for words in ("<li>“real”: the real cases.</li>", "<li>“synthetic”: the synthetic set “a”.</li>",
                  "“real+synthetic”: the real cases and the synthetic set “b”, each case alike.",
                  "“real-reseeded”: the real cases; other random seeds.",
                  "“pre”: the synthetic set “b” in the first 25 % of the steps, then the real cases; 50 % of the real",
                  "which gives 50 % of the patches; of the set only cases that the benchmark finds with a Dice of 0.3",
                  "100 % of the real patches mixed with their synthetic twins (twin).",
                  "each case alike; synthetic patches with the noise of real ones.",
                  "the harder half 3 times as often"):  # fmt: skip
        assert words in html, words


def test_an_arm_that_uses_its_data_in_another_way_is_no_null_arm():
    arms = {name: {"real": True, "synthetic": "a", "reseeded": name != "real"} for name in ("real", "again", "pre")}
    arms["pre"]["pretrain"] = 0.5
    assert null_arms(arms, "real") == ["again"]


def test_kinds_of_nodules_are_told_per_size(html):
    assert html.count("<summary>unet, ") == 3 and "unet, 25 % of the train patients" in html
    assert "ground glass" in html and "at the pleura" in html


def test_the_policy_for_empty_masks_is_stated(html):
    assert "both empty they agree (Dice" in html and "patients, 0 without a nodule" in html


def test_what_was_asked_of_masks_stands_beside_what_was_made(comparison):
    row = {
        "what": "diameter <of> a nodule, mm",
        "train": "13.07",
        "train_sd": "6.441",
        "held_out": "13.5",
        "held_out_sd": "7",
        "synthetic": "12",
        "synthetic_sd": "5",
        "floor": "0.802",
        "distance": "0.42",
        "difference_low": "-1.998",
        "difference_high": "1",
        "asked": "12.5",
        "asked_sd": "5",
        "off": "0.0512",
    }
    empty = dict.fromkeys(row, "") | {"what": "number of nodules", "train": "0", "train_sd": "0"}
    html = report.build("t", json.dumps(CONFIG), report.Findings({"unet": comparison}, masks={"made": [row, empty]}))
    parser = Parser()
    parser.feed(html)
    cells = [re.findall("<td.*?>(.*?)</td>", line) for line in html.replace("\n", "").split("<tr>")]
    assert (
        not parser.open
        and [
            "diameter &lt;of&gt; a nodule, mm",
            "13.1 (6.44)",
            "13.5 (7)",
            "12 (5)",
            "0.802",
            "0.42",
            "-2 to 1",
            "12.5 (5)",
            "0.0512",
        ]
        in cells
    )
    assert ["number of nodules", "0 (0)", *[""] * 7] in cells


def test_rejected_volumes_are_counted(html):
    assert "Set a: 14 volumes made, 3 rejected, 1 of them kept" in html
    assert "median &lt;of&gt; lungs" in html and "5 % of new real cases; n train" in html


def test_the_cost_is_told_by_stage_and_below_it_by_what_was_made(html):
    """Of a job with a GPU the memory is the GPU's."""
    cost = html.split('<h3 id="cost">Cost</h3>')[1]
    cells = [re.sub("<.*?>", " ", row).split() for row in cost.split("</tr>")]
    assert ["segmentation", "all", "of", "it", "3", "3,660", "7,000"] in cells
    assert ["cohort", "all", "of", "it", "1", "1,800", "900"] in cells
    assert ["segmentation:", "train", "unet", "2", "3,600", "7,000", "cpu", "(x86_64);", "cuda", "(H200)"] in cells
    assert [
        "segmentation:",
        "predict",
        "unet",
        "1",
        "60",
        "900",
        "cpu",
        "(x86_64)",
    ] in cells and "4 in all,\nof 1.5 hours" in cost


def test_cohort_counts():
    typing_error = {"case": "x", "patient": "", "status": "excluded", "reason": "no such case", "warnings": ""}
    summary = report.cohort_summary([*COHORT, typing_error])
    assert summary["splits"][0] == {"split": "train", "cases": 2, "patients": 1, "nodules": 3}
    assert summary["excluded"] == [("slices <missing>", 1), ("no such case", 1)]
    assert summary["n_excluded"] == 1  # an exclusion that names no case is told, and is no case


def test_an_effect_is_named(comparison):
    assert "“real+synthetic” raised the mean Dice of the test cases by 0." in answer.headline(comparison, CONFIG)
    lines = answer.sentences(comparison, CONFIG)
    assert lines[0].startswith("“real”, the benchmark: mean Dice 0.")
    words = answer.uncertainty(comparison, CONFIG)
    assert re.search(r"Other random seeds alone moved the mean by \+0\.\d+ \(up to 0\.\d+ either way\)", words)
    assert re.search(
        r"^20 test cases of 20 patients, 2 trainings .* “real\+synthetic”: \+0.0\d+ Dice \(95 % int", words
    )
    assert "worse" in lines[1] and "% of the benchmark's Dice" in lines[1]
    assert "null arm" in lines[-1] and "chance alone" in lines[-1]


def test_no_effect_is_named_as_such(comparison):
    """The interval includes zero: no claim, but the smallest effect that would have been seen, and the
    null arm's.
    """
    flat = {
        "mean_difference": 0.01,
        "ci_low": -0.02,
        "ci_high": 0.04,
        "p_holm": 0.8,
        "trainings_low": -0.03,
        "trainings_high": 0.05,
        "smallest_resolvable": 0.05,
    }
    rows = [row | flat if row["arm"] == "real+synthetic" else row for row in comparison]
    words = answer.uncertainty(rows, CONFIG)
    assert answer.headline(rows, CONFIG).startswith("No difference could be shown")
    assert "0.050 Dice" in words and "random seeds alone" in words
    assert "no difference could be shown; one of 0.050 or more" in answer.sentences(rows, CONFIG)[2]


def test_an_arm_of_which_nothing_could_be_seen_leaves_no_limit(comparison):
    """Of one arm 0.05 would have been seen, of the other not even 1: the first is no limit for both."""
    flat = {"mean_difference": 0.01, "p_holm": 0.8, "smallest_resolvable": 0.05}
    added = next(row for row in comparison if row["group"] == "test" and row["arm"] == "real+synthetic") | flat
    config = CONFIG | {"arms": CONFIG["arms"] | {"more": CONFIG["arms"]["real+synthetic"]}}
    both = [added, added | {"arm": "more", "smallest_resolvable": None}]
    assert "0.050 Dice" in answer.uncertainty(both[:1], config)
    assert "would have been seen" not in answer.uncertainty(both, config)


def test_the_validation_groups_cannot_make_a_claim(comparison):
    only_validation = [row for row in comparison if row["group"] != "test"]
    assert answer.headline(only_validation, CONFIG).startswith("No arm adds")
    assert answer.uncertainty(only_validation, CONFIG) == "the test group is empty, so nothing can be claimed."
    assert answer.sentences(only_validation, CONFIG) == ["The test group is empty, so nothing can be claimed."]


def test_few_patients_are_named_as_such(comparison):
    """No interval over patients: the one over both stands in the sentence; two patients have none at all."""
    few = {
        "ci_low": None,
        "ci_high": None,
        "p_holm": 0.4,
        "trainings_low": -0.1,
        "trainings_high": 0.3,
        "n_patients": 9,
    }
    none = few | {"trainings_low": None, "trainings_high": None, "p_holm": None, "n_patients": 2}
    none |= {"smallest_resolvable": None}
    for change, words in (
        (few, "(interval over patients and trainings -0.100 to +0.300, if"),
        (none, "too few patients"),
    ):
        rows = [row | change if row["arm"] == "real+synthetic" else row for row in comparison]
        assert words in answer.sentences(rows, CONFIG)[2]


@pytest.mark.parametrize(("p_holm", "expected"), [(0.04, True), (0.06, False), (None, False)])
def test_a_claim_needs_corrected_p(p_holm, expected):
    assert answer.differs({"p_holm": p_holm}, 0.95) is expected


def test_what_other_trainings_may_undo_is_no_claim_and_says_so(comparison):
    """An effect that other patients would show, but not other trainings; with one training of each, nobody knows."""
    unsure = {"mean_difference": 0.02, "ci_low": 0.01, "ci_high": 0.03, "smallest_resolvable": 0.05}
    for p, ends, words in ((0.3, (-0.01, 0.05), "other trainings may undo it (interval -0.010 to +0.050)"),
                           (0.1, (0.01, 0.05), "of so many arms one may come out like this by chance"),
                           (None, (None, None), "there is one training of each arm")):  # fmt: skip
        change = unsure | {"p_holm": p} | dict(zip(("trainings_low", "trainings_high"), ends, strict=True))
        rows = [row | change if row["arm"] == "real+synthetic" else row for row in comparison]
        assert answer.headline(rows, CONFIG).startswith("No difference could be shown")
        assert words in answer.sentences(rows, CONFIG)[2]


def test_folds_of_a_set_with_the_same_verdict_are_named_together():
    verdicts = [
        {"set": name, "size": 100, "fold": fold, "result": result}
        for name, fold, result in (("a", 1, "pass"), ("a", 2, "fail"), ("a", 3, "pass"), ("b", 1, "blind"))
    ]
    told = report.told_verdicts(verdicts, 1)
    assert told == [("a, fold 1, 3", "pass"), ("a, fold 2", "fail"), ("b, fold 1", "blind")]
    alone = {"set": "a", "size": 50, "result": "pass"}
    assert report.told_verdicts([alone], 1) == [("a", "pass")]
    assert report.told_verdicts([alone], 2) == [("a, 50 %", "pass")]
