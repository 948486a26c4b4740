"""The verdict's logic on tables of correlations made up for it."""

import numpy as np
import pytest
from scipy import stats

from lungsyn import cli
from lungsyn.audit import outlines
from lungsyn.audit.checks import overall
from lungsyn.audit.disguises import DISGUISES, VERBATIM
from lungsyn.audit.outlines import OUTLINE
from lungsyn.audit.probes import COLUMNS, KINDS, NOISY, PART
from lungsyn.audit.verdict import membership_check, verdict
from lungsyn.cohort.export import refuse_unless_passed
from lungsyn.errors import InputError
from lungsyn.settings.audit import Thresholds
from lungsyn.volume.files import read_json, write_case, write_json
from lungsyn.volume.tables import write_table
from tests.conftest import make_case

SETTINGS = Thresholds()


def neighbours(
    synthetic, held_out, planted, elsewhere=None, right=True, kind="nodule", train=60, hidden=()
) -> list[dict]:
    """Rows as `probes.probe` makes them; ``elsewhere``: the synthetic cubes' correlations with held-out ones;
    ``hidden``: disguises that are like chance."""
    elsewhere = np.asarray(synthetic) if elsewhere is None else elsewhere
    rows = [
        {"group": "synthetic", "place": f"s{i}", "patient": f"s{i}", "correlation": r, "nearest": f"t{i % train}",
         "held_out_correlation": e + (0.001 if i % 2 else -0.001), "held_out_nearest": f"h{i % len(held_out)}"}
        for i, (r, e) in enumerate(zip(synthetic, elsewhere, strict=True))
    ]  # fmt: skip
    rows += [
        {"group": "held-out", "place": f"h{i}", "patient": f"h{i}", "correlation": r} for i, r in enumerate(held_out)
    ]
    rows += [
        {"group": "planted", "source": f"t{i % train}", "nearest": f"t{i % train}" if right else "t99", "copy": i,
         "correlation": 0.3 if name in hidden else r, "disguise": name, "patient": f"t{i % train}"}
        for name in (outlines.DISGUISES if kind == OUTLINE else (NOISY, *DISGUISES))
        for i, r in enumerate(planted)
    ]  # fmt: skip
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
    passed = ("nodule: copies", "nodule: beyond", "nodule: closer", "disguises")
    assert results(found) == dict.fromkeys(passed, "pass") and found["not_found"] == []
    assert found["controls"][0]["recall"] == 1.0
    assert found["controls"][0]["false_alarms"] < 0.03


def test_three_copies_among_two_hundred_fail():
    synthetic = np.r_[spread(197, 0.3), 0.9, 0.95, 0.92]
    found = verdict(neighbours(synthetic, spread(60, 0.3), spread(20, 0.85)), [], SETTINGS, 0)
    assert found["result"] == "fail"
    assert results(found)["nodule: copies"] == "fail"
    assert "3 of 200 synthetic nodules are nearer to a train nodule than chance allows" in str(found["checks"])


def test_a_pull_to_train_cases_fails():
    synthetic = spread(80, 0.4)
    rows = neighbours(synthetic, spread(60, 0.3), spread(20, 0.85), elsewhere=synthetic - 0.1)
    found = verdict(rows, [], SETTINGS, 0)
    assert [results(found)[f"nodule: {name}"] for name in ("copies", "beyond", "closer")] == ["pass", "fail", "fail"]


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
    for row in [row for row in rows if row.get("disguise") == NOISY][:2]:
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


def test_one_near_copy_among_two_hundred_fails():
    """It is nearer than any held-out case by far, and farther than the noisy copies: a patient given away all the same.

    Correlations as measured on real cut-outs: held-out ones up to 0.33, the copy 0.6, planted ones from 0.73."""
    synthetic = np.r_[spread(199, 0.2, 0.04), 0.6]
    found = verdict(neighbours(synthetic, spread(120, 0.21, 0.04), spread(20, 0.85)), [], SETTINGS, 0)
    assert results(found)["nodule: copies"] == "fail"
    assert "1 of 200 synthetic nodules are nearer" in found["checks"][0]["sentence"]


def test_too_few_held_out_patients_to_tell_one_copy_are_said_with_their_number():
    held_out = spread(5, 0.25, 0.06)
    found = verdict(neighbours(np.r_[spread(199, 0.25, 0.06), 0.7], held_out, spread(20, 0.7)), [], SETTINGS, 0)
    control, check = found["controls"][0], found["checks"][0]
    assert check["result"] == "blind" and 5 < control["patients_needed"] < 100
    assert f"takes about {control['patients_needed']} held-out patients, not 5" in check["sentence"]
    enough = spread(control["patients_needed"] + 5, 0.25, 0.06)
    assert verdict(neighbours(spread(200, 0.25, 0.06), enough, spread(20, 0.7)), [], SETTINGS, 0)["result"] == "pass"


def test_the_whole_verdict_raises_few_false_alarms():
    """Two kinds and a membership attack, all without a leak: a tenth of the studies at alpha 0.1, and no more."""
    rng, failed, draws = np.random.default_rng(0), 0, 150
    settings = Thresholds(alpha=0.1)
    for _ in range(draws):
        rows = []
        for kind in ("nodule", "volume"):
            synthetic, elsewhere, held_out = (
                rng.gumbel(0.25, 0.03, 30),
                rng.gumbel(0.25, 0.03, 30),
                rng.gumbel(0.25, 0.03, 26),
            )
            made = neighbours(synthetic, held_out, spread(20, 0.9), elsewhere, kind=kind, train=26)
            for row in made[:30]:
                row["nearest"], row["held_out_nearest"] = f"t{rng.integers(26)}", f"h{rng.integers(26)}"
            rows += made
        found = verdict(rows, losses(rng.normal(size=26), rng.normal(size=26)), settings, 0)
        failed += found["result"] == "fail"
    assert failed / draws <= 0.1 + 2 * (0.09 / draws) ** 0.5


def test_what_could_not_be_found_is_named():
    hidden = ["rotated by 20 degrees", "half blended with another patient"]
    rows = neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85), hidden=hidden)
    found = verdict(rows, [], SETTINGS, 0)
    check = found["checks"][-1]
    assert (found["result"], check["result"], set(found["not_found"])) == ("pass", "pass", set(hidden))
    assert "Not looked for" in check["sentence"] and "rotated by 20 degrees (0% found)" in check["sentence"]
    recalls = {row["disguise"]: row["recall"] for row in found["disguises"]}
    assert recalls["x and y exchanged"] == 1 and recalls["rotated by 20 degrees"] == 0


@pytest.mark.parametrize("name", VERBATIM)
def test_a_patient_s_own_voxels_must_be_found(name):
    rows = neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85), hidden=[name])
    found = verdict(rows, [], SETTINGS, 0)
    assert found["result"] == "blind" and results(found)["disguises"] == "blind"


def test_one_kind_finds_what_another_does_not():
    hidden = ["rotated by 20 degrees"]
    rows = neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85), hidden=hidden)
    rows += neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85), kind="volume")
    assert verdict(rows, [], SETTINGS, 0)["not_found"] == []


@pytest.mark.parametrize("group", ["synthetic", "held-out", "planted"])
@pytest.mark.parametrize("value", ["nan", "inf", ""])
def test_a_correlation_that_is_no_number_is_no_pass(group, value):
    rows = neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85))
    second = [row for row in rows if row["group"] == group][1]  # of held-out ones it is somebody's nearest
    second["correlation"] = value
    found = verdict(rows, [], SETTINGS, 0)
    assert found["result"] == "blind"
    assert "Blind: 1 correlations are no numbers" in found["checks"][0]["sentence"]


@pytest.mark.parametrize("value", ["nan", "inf", ""])
def test_a_correlation_with_held_out_ones_that_is_no_number_is_no_pass(value):
    rows = neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85))
    rows[3]["held_out_correlation"] = value
    found = verdict(rows, [], SETTINGS, 0)
    assert found["result"] == "blind"
    assert "Blind: 1 correlations are no numbers" in found["checks"][0]["sentence"]


@pytest.mark.parametrize("group", ["synthetic", "held-out", "planted", "train"])
def test_a_group_without_numbers_is_blind(group):
    rows = [
        row for row in neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85)) if row["group"] != group
    ]  # fmt: skip
    found = verdict(rows, [], SETTINGS, 0)
    assert found["result"] == "blind" and f"no {group} nodule" in found["checks"][0]["sentence"]


def test_many_cases_of_few_patients_are_no_many():
    """Ten synthetic cases of each of three patients, all beyond: three patients show little."""
    rows = neighbours(spread(30, 0.42), spread(20, 0.3), spread(20, 0.85), elsewhere=spread(30, 0.3))
    assert results(verdict(rows, [], SETTINGS, 0))["nodule: beyond"] == "fail"
    for i, row in enumerate(rows[:30]):
        row["patient"] = f"t{i % 3}"
    assert results(verdict(rows, [], SETTINGS, 0))["nodule: beyond"] == "blind"


def losses(learned, unseen) -> list[dict]:
    """One case of each patient, or cases ``[patients cases]``."""
    return [
        {"case": f"{name}{i}-{j}", "patient": f"{name}{i}", "group": name, "log_loss": str(x)}
        for name, values in (("learned", learned), ("unseen", unseen))
        for i, of_patient in enumerate(values)
        for j, x in enumerate(np.atleast_1d(of_patient))
    ]


@pytest.mark.parametrize("alike", [0.5, 0.8, 0.95])
def test_six_cases_of_each_patient_raise_no_more_alarms(alike):
    """``alike``: the correlation of two cases of one patient. No leak; the membership attack alone, at all of alpha."""
    rng, draws = np.random.default_rng(1), 300
    settings = Thresholds(alpha=8 * 0.01, largest_membership_auc=0.6)

    def drawn() -> np.ndarray:
        return alike**0.5 * rng.normal(size=(8, 1)) + (1 - alike) ** 0.5 * rng.normal(size=(8, 6))

    failed = [membership_check(losses(drawn(), drawn()), settings).result == "fail" for _ in range(draws)]
    assert np.mean(failed) <= 0.015 + 0.006  # and its standard error; cases in place of patients: 0.1 to 0.17


def test_two_patients_with_ten_cases_each_are_two():
    rng = np.random.default_rng(2)
    found = membership_check(losses(rng.normal(-9, 1, (2, 10)), rng.normal(size=(2, 10))), Thresholds(alpha=0.08))
    assert found.result == "blind" and "2 patients" in found.sentence


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", ""])
def test_one_loss_that_is_no_number_makes_it_blind(value):
    alike = losses(spread(53, 0, sd=1), spread(52, 0, sd=1))
    assert membership_check(alike, SETTINGS).result == "pass"
    alike[0]["log_loss"] = value
    found = membership_check(alike, SETTINGS)
    assert found.result == "blind" and found.sentence.startswith("Blind: 1 of 105 losses are no numbers")
    leak = losses(spread(53, -3, sd=1), spread(52, 0, sd=1))
    leak[0]["log_loss"] = value
    assert membership_check(leak, SETTINGS).result == "fail"


def test_no_losses_of_a_group_is_blind():
    found = membership_check(losses([1.0, 2.0], []), SETTINGS)
    assert (found.result, found.value) == ("blind", None) and "no loss of unseen cases" in found.sentence


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


@pytest.fixture
def judged(tmp_path):
    """A synthetic case on disk, and the command that writes its verdict from ``rows`` of all kinds."""
    case = make_case(name="untargeted-1")
    case.about["dataset"] = "synthetic"
    write_case(tmp_path / "set" / "untargeted-1", case)
    told = [
        "--audit",
        "{}",
        "--seed",
        "1",
        "--of",
        "generator=g",
        "set=untargeted",
        "size=50",
        "--held-out-splits",
        "test",
    ]
    files = ["--neighbours", str(tmp_path / "nearest.tsv"), "--out", str(tmp_path / "verdict.json")]

    def command(rows, *more, synthetic="set", columns=COLUMNS) -> int:
        write_table(tmp_path / "nearest.tsv", [dict.fromkeys(COLUMNS) | row for row in rows], columns)
        return cli.main(["audit", "verdict", *told, "--synthetic", str(tmp_path / synthetic), *files, *more])

    return command


def of_case(name: str, kinds=(*KINDS, PART, OUTLINE), also=()) -> list[dict]:
    """Rows of every kind in which all synthetic cubes are of this case."""
    rows = [
        row
        for kind in kinds
        for row in neighbours(np.r_[spread(80, 0.3), *also], spread(60, 0.3), spread(20, 0.85), kind=kind)
    ]
    for row in rows:
        if row["group"] == "synthetic":
            row |= {"case": name, "place": f"{name}/1" if row["kind"] == "nodule" else name}
    return rows


def test_a_verdict_is_on_the_cases_that_were_compared_and_on_no_others(judged, tmp_path, capsys):
    assert judged(of_case("untargeted-1")) == 0
    assert read_json(tmp_path / "verdict.json")["result"] == "pass"
    (tmp_path / "verdict.json").unlink()
    for rows, synthetic in (
        (of_case("untargeted-2"), "set"),
        (of_case("untargeted-1"), "nowhere"),
        (of_case("untargeted-1", kinds=["nodule"]), "set"),
        ([], "set"),
    ):
        capsys.readouterr()
        assert judged(rows, synthetic=synthetic) == 2
        assert "synthetic cases given: run lungsyn audit memorisation on them" in capsys.readouterr().err
    assert judged([], columns=["kind"]) == 2 and "no column 'group'" in capsys.readouterr().err
    assert not (tmp_path / "verdict.json").exists()


def test_no_losses_are_no_pass(judged, tmp_path, capsys):
    write_table(tmp_path / "membership.tsv", [], ["case", "patient", "group", "log_loss"])
    assert judged(of_case("untargeted-1"), "--membership", str(tmp_path / "membership.tsv")) == 2
    assert "it holds no loss" in capsys.readouterr().err


def test_what_was_found_is_not_called_blind():
    """A finding of an audit that is blind for others: its sentence says what was found."""
    synthetic = spread(80, 0.4)
    rows = neighbours(synthetic, spread(60, 0.3), spread(20, 0.3), elsewhere=synthetic - 0.1)
    checks = {check["check"]: check for check in verdict(rows, [], SETTINGS, 0)["checks"]}
    for name in ("nodule: beyond", "nodule: closer"):
        assert checks[name]["result"] == "fail" and not checks[name]["sentence"].startswith("Blind")
    assert checks["nodule: copies"]["sentence"].startswith("Blind")
    leak = losses(spread(53, -3, sd=1), spread(52, 0, sd=1))
    leak[0]["log_loss"] = "nan"
    assert membership_check(leak, SETTINGS).sentence.startswith("An attacker can tell")


def test_copies_taken_for_others_ask_for_no_more_patients():
    rows = neighbours(spread(80, 0.3), spread(60, 0.3), spread(20, 0.85), right=False)
    control = verdict(rows, [], SETTINGS, 0)["controls"][0]
    assert control["recall"] == 0 and control["patients_needed"] is None


def test_the_command_writes_it_and_a_failing_set_is_not_exported(judged, tmp_path, capsys):
    assert judged(of_case("untargeted-1", also=[0.9])) == 0
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
    case = make_case(name="untargeted-1", seed=1)
    write_case(tmp_path / "set" / "untargeted-1", case)
    assert cli.main([*export, "--verdict", str(tmp_path / "verdict.json")]) == 2
    assert "untargeted-1 is not what the verdict on set untargeted is about" in capsys.readouterr().err


def test_a_blind_set_is_not_exported_either():
    blind = {"check": "membership", "result": "blind", "sentence": "Blind: too few."}
    with pytest.raises(InputError, match=r"(?s)is blind, so it is not exported.*membership \(blind\): Blind: too few"):
        refuse_unless_passed({"set": "a", "cases": {}, "result": "blind", "checks": [blind], "not_found": []}, [])
    with pytest.raises(InputError, match="it has no check"):
        refuse_unless_passed({"set": "a", "cases": {}, "result": "blind", "checks": [], "not_found": []}, [])
    with pytest.raises(InputError, match="of an earlier version that missed copies: audit it again"):
        refuse_unless_passed({"set": "a", "cases": {}, "result": "pass", "checks": []}, [])
