"""The verdict's logic on tables of correlations made up for it."""

import numpy as np
import pytest
from scipy import stats

from lungsyn import cli
from lungsyn.audit.verdict import membership_check, overall, verdict
from lungsyn.cohort.export import refuse_unless_passed
from lungsyn.config import Thresholds
from lungsyn.errors import InputError
from lungsyn.volume.files import read_json, write_case, write_json
from lungsyn.volume.tables import write_table
from tests.conftest import make_case

SETTINGS = Thresholds()


def neighbours(synthetic, held_out, planted, elsewhere=None, right=True, kind="nodule", train=60) -> list[dict]:
    """Rows as `probes.probe` makes them; ``elsewhere``: the synthetic cubes' correlations with held-out ones."""
    elsewhere = np.asarray(synthetic) if elsewhere is None else elsewhere
    rows = [
        {"group": "synthetic", "place": f"s{i}", "patient": "synthetic", "correlation": r, "nearest": f"t{i % train}",
         "held_out_correlation": e + (0.001 if i % 2 else -0.001), "held_out_nearest": f"h{i % len(held_out)}"}
        for i, (r, e) in enumerate(zip(synthetic, elsewhere, strict=True))
    ]  # fmt: skip
    rows += [
        {"group": "held-out", "place": f"h{i}", "patient": f"h{i}", "correlation": r} for i, r in enumerate(held_out)
    ]
    rows += [
        {"group": "planted", "source": f"t{i}", "nearest": f"t{i}" if right else "t99", "correlation": r}
        for i, r in enumerate(planted)
    ]
    rows += [{"group": "train", "place": f"t{i}", "patient": f"t{i}"} for i in range(train)]
    return [row | {"kind": kind} for row in rows]


def spread(n: int, centre: float, sd: float = 0.03) -> np.ndarray:
    """``n`` values of a normal distribution, evenly in probability: as typical as can be, and without luck."""
    return centre + sd * stats.norm.ppf((np.arange(n) + 0.5) / n)


def results(found: dict) -> dict[str, str]:
    return {check["check"]: check["result"] for check in found["checks"]}


def test_no_sign_of_copying_passes():
    rows = neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85))
    found = verdict(rows, [], SETTINGS, 0)
    assert found["result"] == "pass"
    assert results(found) == {"nodule: copies": "pass", "nodule: beyond": "pass", "nodule: closer": "pass"}
    assert found["controls"][0]["recall"] == 1.0
    assert found["controls"][0]["false_alarms"] < 0.03


def test_three_copies_among_two_hundred_fail():
    synthetic = np.r_[spread(197, 0.3), 0.9, 0.95, 0.92]
    found = verdict(neighbours(synthetic, spread(60, 0.3), spread(20, 0.85)), [], SETTINGS, 0)
    assert found["result"] == "fail"
    assert results(found)["nodule: copies"] == "fail"
    assert "3 of 200 synthetic nodules are as close to a train nodule as disguised copies are" in str(found["checks"])


def test_a_pull_to_train_cases_fails():
    synthetic = spread(80, 0.4)
    rows = neighbours(synthetic, spread(60, 0.3), spread(20, 0.85), elsewhere=synthetic - 0.1)
    found = verdict(rows, [], SETTINGS, 0)
    assert results(found) == {"nodule: copies": "pass", "nodule: beyond": "fail", "nodule: closer": "fail"}


def test_blur_alone_is_no_pull():
    """Closer to everything than held-out cubes are, but to held-out ones as much as to train ones."""
    rows = neighbours(spread(80, 0.34), spread(60, 0.3), spread(20, 0.85))
    found = verdict(rows, [], SETTINGS, 0)
    check = found["checks"][2]
    assert check["result"] == "pass" and "AUC 0.8" in check["sentence"]


@pytest.mark.parametrize("destroyed", ["all noise", "wrong ones"])
def test_destroyed_copies_make_it_blind(destroyed):
    planted = spread(20, 0.3 if destroyed == "all noise" else 0.85)
    rows = neighbours(spread(80, 0.3), spread(60, 0.3), planted, right=destroyed == "all noise")
    found = verdict(rows, [], SETTINGS, 0)
    assert set(results(found).values()) == {"blind"} and found["result"] == "blind"
    assert all(check["sentence"].startswith("Blind: ") for check in found["checks"])


def test_a_copy_is_a_finding_even_of_an_audit_that_misses_others():
    planted = spread(22, 0.85)
    rows = neighbours(np.r_[spread(80, 0.3), 0.99], spread(60, 0.3), planted)
    for row in rows[-62:-60]:
        row["nearest"] = "t99"
    found = verdict(rows, [], SETTINGS, 0)
    assert found["controls"][0]["recall"] < 0.95
    assert results(found)["nodule: copies"] == "fail"
    assert results(found)["nodule: beyond"] == "blind"


def test_more_than_is_allowed_is_no_pass_even_if_it_may_be_chance():
    """One of eight beyond the held-out ones: 12 % where 5 % are allowed, and no proof of anything."""
    synthetic = np.r_[spread(7, 0.3), 0.5]
    found = verdict(neighbours(synthetic, spread(200, 0.3), spread(20, 0.85)), [], SETTINGS, 0)
    check = found["checks"][1]
    assert check["value"] > SETTINGS.largest_fraction_beyond and check["result"] == "blind"
    assert check["sentence"].startswith("Blind: ")


def test_one_held_out_case_cannot_show_anything():
    rows = neighbours(spread(3, 0.3), [0.3], spread(20, 0.85), train=3)
    found = verdict(rows, [], SETTINGS, 0)
    assert found["result"] == "blind"
    assert results(found)["nodule: closer"] == results(found)["nodule: beyond"] == "blind"


def losses(learned, unseen) -> list[dict]:
    groups = (("learned", learned), ("unseen", unseen))
    return [{"case": f"{name}{i}", "group": name, "log_loss": str(x)} for name, xs in groups for i, x in enumerate(xs)]


def test_membership():
    alike = membership_check(losses(spread(200, 0, sd=1), spread(200, 0, sd=1)), SETTINGS)
    assert alike.result == "pass" and alike.value == pytest.approx(0.5, abs=0.1)
    apart = membership_check(losses(spread(40, -9, sd=1), spread(40, 0, sd=1)), SETTINGS)
    assert (apart.result, apart.value) == ("fail", 1.0)
    assert membership_check(losses([0.0], [1.0, 2.0]), SETTINGS).result == "blind"
    undecided = membership_check(losses(spread(12, 0, sd=1), spread(52, 0.6, sd=1)), SETTINGS)
    assert undecided.value > SETTINGS.largest_membership_auc and undecided.result == "blind"
    assert undecided.sentence.startswith("Blind: more than is allowed") and "may tell" in undecided.sentence
    assert membership_check(losses(spread(40, 9, sd=1), spread(40, 0, sd=1)), SETTINGS).result == "pass"


@pytest.mark.parametrize(
    ("found", "expected"),
    [(["pass", "fail", "blind"], "fail"), (["pass", "blind"], "blind"), (["pass", "pass"], "pass"), ([], "blind")],
)
def test_the_worst_check_decides(found, expected):
    assert overall([{"result": result} for result in found]) == expected


def test_the_command_writes_it_and_a_failing_set_is_not_exported(tmp_path, capsys):
    case = make_case(name="untargeted-1")
    case.about["dataset"] = "synthetic"
    write_case(tmp_path / "set" / "untargeted-1", case)
    rows = neighbours(np.r_[spread(80, 0.3), 0.9], spread(60, 0.3), spread(20, 0.85))
    columns = sorted({key for row in rows for key in row})
    write_table(tmp_path / "nearest.tsv", [dict.fromkeys(columns) | row for row in rows], columns)
    told = ["--audit", "{}", "--seed", "1", "--set", "untargeted", "--size", "50", "--held-out-splits", "test"]
    files = ["--neighbours", str(tmp_path / "nearest.tsv"), "--out", str(tmp_path / "verdict.json")]
    assert cli.main(["audit", "verdict", *told, "--synthetic", str(tmp_path / "set"), *files]) == 0
    about = read_json(tmp_path / "verdict.json")
    assert (about["set"], about["size"], about["result"]) == ("untargeted", 50, "fail")
    assert about["held_out_splits"] == ["test"]
    assert about["made"]["audit"] == SETTINGS.model_dump(mode="json")

    export = [
        "cohort",
        "export",
        "--format",
        "nnunet",
        "--cases",
        str(tmp_path / "set"),
        "--out",
        str(tmp_path / "out"),
    ]
    capsys.readouterr()
    assert cli.main([*export, "--verdict", str(tmp_path / "verdict.json")]) == 2
    message = capsys.readouterr().err
    assert "set untargeted is fail" in message and "nodule: copies (fail): 1 of 81" in message
    assert not (tmp_path / "out").exists()
    assert cli.main(export) == 0
    write_json(tmp_path / "verdict.json", about | {"result": "pass"})
    assert cli.main([*export, "--verdict", str(tmp_path / "verdict.json")]) == 0
    # A case made again, or one of another set, has no verdict.
    case.ct[0, 0, 0] += 1
    write_case(tmp_path / "set" / "untargeted-1", case)
    assert cli.main([*export, "--verdict", str(tmp_path / "verdict.json")]) == 2
    assert "untargeted-1 is not what the verdict on set untargeted is about" in capsys.readouterr().err


def test_a_blind_set_is_not_exported_either():
    blind = {"check": "membership", "result": "blind", "sentence": "Blind: too few."}
    with pytest.raises(InputError, match=r"(?s)is blind, so it is not exported.*membership \(blind\): Blind: too few"):
        refuse_unless_passed({"set": "a", "cases": {}, "result": "blind", "checks": [blind]}, [])
    with pytest.raises(InputError, match="it has no check"):
        refuse_unless_passed({"set": "a", "cases": {}, "result": "blind", "checks": []}, [])
