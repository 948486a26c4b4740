"""Who is who: numbers in place of names that are not public, the one table that tells, and that nothing else does."""

import json
import stat

import numpy as np
import pytest

from lungsyn import cli
from lungsyn.cohort import preprocess, private, table
from lungsyn.cohort.names import as_folder
from lungsyn.errors import InputError
from lungsyn.settings.checking import check
from lungsyn.settings.cohort import Cohort, Listing, Preparation
from lungsyn.settings.section import as_json, part
from lungsyn.volume.files import CASE_FILES, data_digests
from lungsyn.volume.tables import read_table
from tests.cohort import test_nifti
from tests.cohort.test_nifti import image, write, write_cases

PEOPLE = ["SMITH_Jane_1956-02-03", "Müller", "Abe", "Zoe", "Eve", "Ann"]


def settings(root, public_names: bool = False) -> Cohort:
    return test_nifti.settings(root, public_names=public_names)


def named(*people: str) -> list[dict]:
    return [{"name": person, "patient_name": f"{person}'s", "case": person, "patient": person} for person in people]


def test_one_more_file_renames_nobody():
    first = private.numbered(named(*PEOPLE[:3]), [], seed=1)
    more = private.numbered(named(*reversed(PEOPLE)), first, seed=1)
    number_of = {row["name"]: row["case"] for row in more}
    assert {row["name"]: row["case"] for row in first}.items() <= number_of.items()
    assert sorted(number_of.values()) == [f"case-{n:04d}" for n in range(1, 7)]
    assert sorted(row["patient"] for row in more) == [f"patient-{n:04d}" for n in range(1, 7)]


def test_numbers_are_the_same_on_every_machine_and_tell_nothing_of_the_alphabet():
    people = [f"person {i:02d}" for i in range(40)]
    found = [row["case"] for row in private.numbered(named(*people), [], seed=1)]
    assert found == [row["case"] for row in reversed(private.numbered(named(*reversed(people)), [], seed=1))]
    assert abs(np.corrcoef(range(40), [int(case[-4:]) for case in found])[0, 1]) < 0.5


def test_a_number_is_not_given_to_another_when_its_file_is_gone(tmp_path):
    path = tmp_path / "private/names.tsv"
    blank = dict.fromkeys(private.COLUMNS, "")
    first = [blank | row for row in private.numbered(named(*PEOPLE[:3]), [], seed=1)]
    private.write_names(path, first)
    left = private.numbered(named(*PEOPLE[1:3]), private.read_names(path), seed=1)
    private.write_names(path, [blank | row for row in left], private.read_names(path))
    everyone = private.numbered(named(*PEOPLE), private.read_names(path), seed=1)
    assert {row["name"]: row["case"] for row in first}.items() <= {row["name"]: row["case"] for row in everyone}.items()
    assert len({row["case"] for row in everyone}) == len(PEOPLE)


def test_numbers_come_back_when_names_were_public_for_a_while(tmp_path):
    """A later file has the last number, and cohort.exclude means by it that file."""
    path, blank = tmp_path / "private/names.tsv", dict.fromkeys(private.COLUMNS, "")
    for people in (PEOPLE[1:], PEOPLE):
        before = private.read_names(path)
        numbered = [blank | row for row in private.numbered(named(*people), before, seed=1)]
        private.write_names(path, numbered, before)
    private.write_names(path, [blank | row for row in named(*PEOPLE)], private.read_names(path))
    assert private.row_of(path, PEOPLE[0])["name"] == PEOPLE[0]
    again = private.numbered(named(*PEOPLE), private.read_names(path), seed=1)
    assert [(row["case"], row["patient"]) for row in again] == [(row["case"], row["patient"]) for row in numbered]
    private.write_names(path, [blank | row for row in again], private.read_names(path))
    assert len(private.read_names(path)) == len(PEOPLE)


def test_an_exclusion_by_number_needs_the_table_that_says_whose_it_is(tmp_path):
    """Where it is lost, numbers are drawn anew: another case would be left out in silence."""
    write_cases(tmp_path, ["a", "b", "c", "d"])
    cohort = settings(tmp_path).model_copy(update={"exclude": {"case-0001": "motion"}})
    with pytest.raises(InputError, match=r"goes by numbers, and there is no results/private/names\.tsv"):
        table.index(cohort, tmp_path, seed=1)
    known = table.index(settings(tmp_path), tmp_path, seed=1)
    rows = table.index(cohort, tmp_path, seed=1, known=known)
    assert [row["case"] for row in rows if row["status"] == "excluded"] == ["case-0001"]


def test_what_tells_is_for_its_owner_only(tmp_path):
    folder = tmp_path / "private"
    private.write_names(folder / "names.tsv", [dict.fromkeys(private.COLUMNS, "x")])
    private.make_key(folder)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (folder, folder / "names.tsv", folder / "key")] == [
        0o700, 0o600, 0o600,
    ]  # fmt: skip


def test_without_its_key_no_digest_of_a_numbered_case_is_written(tmp_path):
    with pytest.raises(InputError, match=r"key is gone.*delete results/listing.tsv"):
        private.keyed(tmp_path, "0123456789ab", numbered=True)


def test_a_keyed_digest_is_of_this_study_alone(tmp_path):
    assert private.keyed(tmp_path / "public", "0123456789ab") == "0123456789ab"
    first, second = tmp_path / "first", tmp_path / "second"
    private.make_key(first)
    private.make_key(second)
    found = private.keyed(first, "0123456789ab")
    assert len(found) == 12 and found not in ("0123456789ab", private.keyed(second, "0123456789ab"))
    private.make_key(first)  # it stays
    assert private.keyed(first, "0123456789ab") == found != private.keyed(first, "0123456789ac")


def test_cases_are_excluded_by_number_where_names_are_not_public(study):
    raw = study.model_dump()
    raw["study"]["name"] = "hospital"
    raw["cohort"] |= {"dataset": "nifti", "root": "x", "exclude": {"SMITH_Jane": "motion"}}
    with pytest.raises(InputError, match=r"excluded by their number, as 'case-0012': results/private/names.tsv has it"):
        check(raw)
    raw["cohort"]["exclude"] = {"case-0012": "motion"}
    assert not check(raw).cohort.readable
    raw["cohort"] |= {"exclude": {"SMITH_Jane": "motion"}, "public_names": True}
    assert check(raw).cohort.readable


def study_of(root, cohort: Cohort, out) -> list[dict]:
    """The listing, every case and the table, as the rules make them."""
    known = ["--root", str(root), "--names", f"{out}/private/names.tsv"]
    index, preparation = (["--cohort", as_json(part(cohort, model))] for model in (Listing, Preparation))
    listing = f"{out}/listing.tsv"
    assert cli.main(["cohort", "index", *index, *known, "--seed", "1", "--workers", "1", "--out", listing]) == 0
    listed = [row["case"] for row in read_table(out / "listing.tsv") if row["status"] == "included"]
    for case in listed:
        prepare = ["cohort", "prepare", "--case", case, *preparation, *known, "--out", f"{out}/cases/{case}"]
        assert cli.main(prepare) == 0
    abouts = [f"{out}/cases/{case}/case.json" for case in listed]
    table = f"{out}/cohort.tsv"
    assert cli.main(["cohort", "table", "--listing", listing, "--cases", *abouts, "--out", table]) == 0
    return read_table(out / "cohort.tsv")


def test_no_name_of_a_file_or_patient_leaves_the_private_folder(tmp_path):
    """In names and contents of all that is written, of used and of left out cases."""
    root, out = tmp_path / "raw", tmp_path / "out"
    write_cases(root, PEOPLE)
    for person, values in (("Abe", image() + 30_000), ("Zoe", image(1))):
        write(root / f"images/{person}.nii.gz", values)
    (root / "images/Eve.nii.gz").write_bytes(b"nothing")
    lines = [f"{person}\tpatient {person}" for person in PEOPLE]
    (root / "cases.tsv").write_text("case\tpatient\n" + "\n".join(lines) + "\n", encoding="utf-8")
    rows = study_of(root, settings(root), out)
    assert sorted(row["case"] for row in rows) == [f"case-{n:04d}" for n in range(1, 7)]
    assert [row["status"] for row in rows].count("included") == 4
    written = [path for path in out.rglob("*") if path.is_file() and path.parent.name != "private"]
    assert len(written) == 4 * len(CASE_FILES) + 2
    for path in written:
        for person in PEOPLE:
            assert person.encode() not in path.read_bytes() and person not in str(path.relative_to(tmp_path))
    told = {row["name"]: row for row in private.read_names(out / "private/names.tsv")}
    assert set(told) == set(PEOPLE) and told["Müller"]["source"] == "images/Müller.nii.gz"


def test_the_split_does_not_depend_on_whether_names_are_public(tmp_path):
    write_cases(tmp_path / "raw", PEOPLE)
    cohort = settings(tmp_path / "raw")
    numbered = table.index(cohort, tmp_path / "raw", seed=1)
    readable = table.index(cohort.model_copy(update={"public_names": True}), tmp_path / "raw", seed=1)
    assert {row["source"]: row["split"] for row in numbered} == {row["source"]: row["split"] for row in readable}
    assert {row["case"] for row in readable} == {as_folder(person) for person in PEOPLE}


def test_a_digest_of_voxels_that_may_be_shared_is_keyed(tmp_path):
    """Models keep digests of the cases they saw: who holds a scan must not find it there."""
    write_cases(tmp_path / "raw", PEOPLE)
    cohort, kept = settings(tmp_path / "raw"), {}
    for name, public in (("first", False), ("second", False), ("public", True)):
        study_of(tmp_path / "raw", cohort.model_copy(update={"public_names": public}), tmp_path / name)
        folders = sorted((tmp_path / name / "cases").iterdir())
        plain = {json.loads((folder / "case.json").read_text())["digest"] for folder in folders}
        kept[name] = {digest for _, digest in data_digests(folders)}
        assert (kept[name] == plain) == public
    assert not kept["first"] & kept["second"]


def test_a_case_that_cannot_be_prepared_is_left_out_and_the_others_go_on(tmp_path, monkeypatch):
    """What the index could not know: such as a chest in which no lung is found."""
    write_cases(tmp_path / "raw", ["a", "b", "c", "d", "e"])
    write(tmp_path / "raw/images/b.nii.gz", image() + 7)

    def prepare(ct, *rest):
        if ct.data.min() == image().min() + 7:
            raise InputError("no lungs found", detail="in images/b.nii.gz")
        return preprocess.prepare(ct, *rest)

    monkeypatch.setattr(table, "prepare", prepare)
    rows = {row["case"]: row for row in study_of(tmp_path / "raw", settings(tmp_path, True), tmp_path)}
    assert {case: row["status"] for case, row in rows.items()} == dict.fromkeys("acde", "included") | {"b": "excluded"}
    assert rows["b"]["reason"] == "no lungs found" and not rows["b"]["split"]
    about = json.loads((tmp_path / "cases/b/case.json").read_text())
    assert about == {"case": "b", "patient": "b", "left_out": "no lungs found"}
    assert {path.name for path in (tmp_path / "cases/b").iterdir()} == set(CASE_FILES)


@pytest.mark.parametrize("public", [True, False])
def test_the_log_of_a_left_out_case_names_its_files_only_if_they_are_public(tmp_path, capsys, monkeypatch, public):
    def prepare(ct, *rest):
        raise InputError("no lungs found", detail="images/SMITH_JANE.nii.gz")

    write_cases(tmp_path / "raw", PEOPLE)
    monkeypatch.setattr(table, "prepare", prepare)
    with pytest.raises(AssertionError):  # no case is left
        study_of(tmp_path / "raw", settings(tmp_path, public), tmp_path)
    said = capsys.readouterr().out
    assert "is left out: no lungs found" in said and ("SMITH_JANE.nii.gz" in said) == public


def listed(**split_of: str) -> list[dict]:
    ranks = {case: str(n) for n, case in enumerate((c for c, s in split_of.items() if s == "train"), start=1)}
    blank = dict.fromkeys(table.COLUMNS, "")
    return [
        blank | {"case": case, "patient": case, "split": split, "status": "included", "train_rank": ranks.get(case, "")}
        for case, split in split_of.items()
    ]


def about(*warnings: str) -> dict:
    return {"nodules": [{}, {}], "warnings": list(warnings)}


def test_the_table_is_the_listing_less_what_could_not_be_prepared():
    rows = listed(a="train", b="train", c="train", d="test")
    rows[3]["warnings"] = "no list"
    abouts = {"a": {"left_out": "no lungs"}, "b": about(), "c": about(), "d": about("cut lung", "no list")}
    found = {row["case"]: row for row in table.settled(rows, abouts)}
    assert (found["a"]["status"], found["a"]["reason"], found["a"]["split"]) == ("excluded", "no lungs", "")
    assert [found[case]["train_rank"] for case in "bc"] == [1, 2]  # every size still holds the smaller ones
    assert found["d"]["warnings"] == "no list | cut lung" and found["d"]["n_nodules"] == 2


def test_a_split_that_loses_all_its_cases_ends_the_run():
    rows = listed(a="train", b="validation", c="test")
    with pytest.raises(InputError, match="what could not be prepared leaves split test without a case"):
        table.settled(rows, {"a": about(), "b": about(), "c": {"left_out": "no lungs"}})
    with pytest.raises(InputError, match=r"no case can be used, of 3\n  a: no lungs .so it is with 3"):
        table.settled(rows, {case: {"left_out": "no lungs"} for case in "abc"})
