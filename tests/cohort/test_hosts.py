"""Hosts: cases without marked lesions, which teach the generator and lend their bodies, and are nothing else."""

import json
from pathlib import Path

import numpy as np
import pytest

from lungsyn.audit import membership
from lungsyn.audit.specimens import measure, openers
from lungsyn.cli import main
from lungsyn.cohort import export, nifti, table
from lungsyn.cohort.pairs import LABEL_OF_HOST, NO_LABEL
from lungsyn.cohort.split import training_set
from lungsyn.errors import InputError
from lungsyn.evaluation.report import cohort_summary
from lungsyn.generators.core.patches import TrainingPatches
from lungsyn.generators.core.training import hold_out
from lungsyn.hosts import is_host
from lungsyn.live import with_nodules
from lungsyn.masks import inpainted, made, untargeted
from lungsyn.quality.measures import measure as measures_of
from lungsyn.quality.ranges import reference
from lungsyn.registry import family
from lungsyn.settings.cohort import Listing, Preparation, Split
from lungsyn.settings.section import as_json, part
from lungsyn.settings.synthesis import Synthesis
from lungsyn.volume.files import open_case, read_json, write_case
from lungsyn.volume.tables import read_table, write_table
from tests.cohort.test_nifti import image, label, name_seed, settings, write, write_cases
from tests.conftest import made_case, make_case


def listed(root: Path, seed: int = 0, **changes) -> dict[str, dict]:
    return {row["case"]: row for row in table.index(settings(root, **changes), root, seed)}


def write_list(root: Path, *rows: tuple) -> None:
    columns = ["case", "patient", "split", "role"]
    write_table(root / "cases.tsv", [dict(zip(columns, row, strict=True)) for row in rows], columns)


def write_image(root: Path, name: str, folder: str = "images") -> None:
    write(root / folder / f"{name}.nii.gz", image(name_seed(name)))


MARKED = ["a1", "b2", "c3", "d4", "e5", "f6"]


# ------------------------------------------------------------------------------------------------------- who is a host


@pytest.mark.parametrize("said", ["a folder", "a column", "a setting: no label", "a setting: an empty label"])
def test_hosts_are_train_cases_that_move_nobody_else(tmp_path, said):
    write_cases(tmp_path, MARKED)
    before = listed(tmp_path)
    write_image(tmp_path, "host", "hosts" if said == "a folder" else "images")
    if said == "a column":
        write(tmp_path / "labels/host.nii.gz", label())  # which is not looked at
        write_list(tmp_path, *[(name, name, "", "") for name in MARKED], ("host", "h", "", "Host"))
    if said == "a setting: an empty label":
        write(tmp_path / "labels/host.nii.gz", label() * 0)
    after = listed(tmp_path, unmarked="host" if said.startswith("a setting") else "excluded")
    host = after.pop("host")
    assert {c: (r["split"], r["train_rank"], r["role"]) for c, r in after.items()} == {
        c: (r["split"], r["train_rank"], "marked") for c, r in before.items()
    }
    told = (host["role"], host["status"], host["split"], host["n_nodules"], host["annotation"])
    assert told == ("host", "included", "train", 0, "")
    assert (LABEL_OF_HOST in host["warnings"]) is (said == "a column")
    assert ("nothing is marked" in host["warnings"]) is (said == "a setting: an empty label")
    assert "hosts, without marked lesions: 1 cases of 1 patients" in table.summary([*after.values(), host])


def test_what_is_not_marked_stays_left_out_unless_somebody_says_so(tmp_path):
    write_cases(tmp_path, MARKED)
    write_image(tmp_path, "g7")
    write_image(tmp_path, "h8")
    write(tmp_path / "labels/h8.nii.gz", label() * 0)
    rows = listed(tmp_path)
    assert rows["g7"]["reason"] == NO_LABEL and rows["h8"]["reason"].startswith("empty label")
    assert not any(map(is_host, rows.values()))


def test_nnunet_s_layout_has_hosts_too(tmp_path):
    """With the channel in their names, and other channels beside them."""
    write_cases(tmp_path, MARKED, "imagesTr", "labelsTr", "_0000")
    write_image(tmp_path, "host_0000", "hosts")
    write_image(tmp_path, "host_0001", "hosts")
    row = listed(tmp_path)["host"]
    assert is_host(row) and row["source"] == "hosts/host_0000.nii.gz"
    assert "other channels" in row["warnings"]


def test_one_image_in_both_folders_is_told(tmp_path):
    write_cases(tmp_path, MARKED)
    write_image(tmp_path, "a1", "hosts")
    assert "one of them in hosts/" in listed(tmp_path)["a1"]["reason"]


def test_a_role_that_is_none_and_a_host_that_is_not_listed_end_the_run(tmp_path):
    write_cases(tmp_path, MARKED)
    write_list(tmp_path, *[(name, name, "", "donor" * (name == "a1")) for name in MARKED])
    with pytest.raises(InputError, match="a role is 'donor'"):
        listed(tmp_path)
    write_list(tmp_path, *[(name, name, "", "") for name in MARKED])
    write_image(tmp_path, "host", "hosts")  # whose patient may be one of the test
    with pytest.raises(InputError, match="does not list 1 of the images"):
        listed(tmp_path)


def test_hosts_alone_are_no_study(tmp_path):
    write_cases(tmp_path, MARKED)
    write_list(tmp_path, *[(name, name, "", "host") for name in MARKED])
    with pytest.raises(InputError, match="6 are hosts, which only teach"):
        listed(tmp_path)


def test_a_host_s_further_label_is_read(tmp_path):
    write_cases(tmp_path, MARKED)
    write_image(tmp_path, "host", "hosts")
    for name in [*MARKED, "host"]:
        write(tmp_path / "labels_airway" / f"{name}.nii.gz", label())
    row = listed(tmp_path, labels=["airway"])["host"]
    raw = nifti.read_case(tmp_path, row["source"], row["annotation"], settings(tmp_path, labels=["airway"]))
    assert not raw.nodules and raw.labels["airway"].data.sum() == (label() > 0).sum()
    (tmp_path / "labels_airway/host.nii.gz").unlink()
    assert listed(tmp_path, labels=["airway"])["host"]["reason"].startswith("missing label airway")


# ------------------------------------------------------------------------------------------------------------- no leak


@pytest.mark.parametrize("seed", range(4))
def test_a_host_follows_its_patient_or_is_left_out(tmp_path, seed):
    """Whoever is tested on or chosen by is not learned from, in no series of theirs."""
    write_cases(tmp_path, MARKED)
    for name in MARKED:
        write_image(tmp_path, f"{name}_old", "hosts")
    rows = [(name, name, "", "") for name in MARKED] + [(f"{name}_old", name, "", "") for name in MARKED]
    write_list(tmp_path, *rows)
    found = listed(tmp_path, seed)
    for name in MARKED:
        host, where = found[f"{name}_old"], found[name]["split"]
        assert host["train_rank"] == found[name]["train_rank"]
        if where == "train":
            assert host["split"] == "train" and host["status"] == "included"
        else:
            assert (host["status"], host["split"]) == ("excluded", "")
            assert host["reason"] == f"a host of a patient in {where}: only train patients teach"
    assert {row["split"] for row in found.values() if row["role"] == "marked"} == {"train", "validation", "test"}


def test_with_folds_a_host_of_a_patient_who_is_tested_is_left_out_and_others_teach_in_every_fold(tmp_path):
    write_cases(tmp_path, MARKED)
    write_image(tmp_path, "own", "hosts")
    write_image(tmp_path, "other", "hosts")
    write_list(tmp_path, *[(name, name, "", "") for name in MARKED], ("own", "a1", "", ""), ("other", "h", "", ""))
    split = Split(folds=3, validation=0.2)
    rows = listed(tmp_path, split=split)
    assert rows["own"]["status"] == "excluded" and "of a fold: only train patients teach" in rows["own"]["reason"]
    assert [rows["other"][f"split_{fold}"] for fold in (1, 2, 3)] == ["train"] * 3
    for name in MARKED:
        assert [rows[name][f"split_{fold}"] for fold in (1, 2, 3)].count("test") == 1
    (tmp_path / "hosts/own.nii.gz").unlink()
    (tmp_path / "hosts/other.nii.gz").unlink()
    write_list(tmp_path, *[(name, name, "", "") for name in MARKED])
    alone = listed(tmp_path, split=split)
    keys = [f"{key}_{fold}" for key in ("split", "train_rank") for fold in (1, 2, 3)]
    assert all(rows[name][key] == alone[name][key] for name in MARKED for key in keys)


def test_a_split_may_be_given_to_hosts_but_only_train_teaches(tmp_path):
    write_cases(tmp_path, MARKED)
    for name in ("g7", "h8"):
        write_image(tmp_path, name, "hosts")
    rows = [(name, name, "", "") for name in MARKED]
    write_list(tmp_path, *rows, ("g7", "g7", "test", "host"), ("h8", "h8", "train", ""))
    found = listed(tmp_path)
    assert found["g7"]["reason"].startswith("a host of a patient in test") and found["h8"]["status"] == "included"
    write_list(tmp_path, *rows[1:], ("a1", "a", "test", ""), ("g7", "a", "train", "host"), ("h8", "h8", "", "host"))
    with pytest.raises(InputError, match="a patient is in two splits"):
        listed(tmp_path)


def test_the_same_image_is_one_patient_also_where_it_is_a_host(tmp_path):
    """Under another name beside the test case: the generator would learn the test."""
    write_cases(tmp_path, MARKED)
    tested = next(case for case, row in listed(tmp_path).items() if row["split"] == "test")
    write(tmp_path / "hosts/copy.nii.gz", image(name_seed(tested)))
    assert listed(tmp_path)["copy"]["reason"].startswith("a host of a patient in ")


def test_smaller_training_sets_have_fewer_hosts_and_the_same_marked_cases(tmp_path):
    write_cases(tmp_path, [*MARKED, "g7", "h8"])
    split = settings(tmp_path).split.model_copy(update={"train": 0.5})
    without = list(listed(tmp_path, split=split).values())
    for i in range(10):
        write_image(tmp_path, f"z{i}", "hosts")
    rows = list(listed(tmp_path, split=split).values())
    for percent in (10, 30, 50, 100):
        joins = training_set(rows, percent)
        chosen = [row for row in rows if row["split"] == "train" and joins(row)]
        marked = [row["case"] for row in chosen if not is_host(row)]
        joined = training_set(without, percent)
        assert marked == [row["case"] for row in without if row["split"] == "train" and joined(row)]
        assert len(chosen) - len(marked) == percent // 10


def test_a_patient_whose_marked_case_cannot_be_prepared_is_a_host_s():
    """Ranks have no gap, and everybody is in the whole training set."""
    row = {"status": "included", "split": "train", "warnings": "", "reason": ""}
    listing = [
        row | {"case": case, "patient": patient, "role": role, "train_rank": rank}
        for case, patient, role, rank in [
            ("a", "A", "marked", "1"), ("a-host", "A", "host", "1"), ("b", "B", "marked", "2"), ("c", "C", "host", "1"),
        ]
    ]  # fmt: skip
    abouts = {r["case"]: {"nodules": []} for r in listing} | {"a": {"left_out": "damaged"}}
    rows = table.settled(listing, abouts)
    assert {r["case"]: r["train_rank"] for r in rows if r["status"] == "included"} == {"a-host": 1, "b": 1, "c": 1}
    assert all(map(training_set(rows, 100), (r for r in rows if r["split"])))
    with pytest.raises(InputError, match="2 are hosts, which only teach"):
        table.settled(listing, abouts | {"b": {"left_out": "damaged"}})
    tested = row | {"case": "t", "patient": "T", "role": "marked", "split": "test", "train_rank": ""}
    with pytest.raises(InputError, match="leaves split train without a case"):
        table.settled([*listing, tested], abouts | {"b": {"left_out": "damaged"}, "t": {"nodules": []}})


def test_a_host_is_prepared_without_nodules_whatever_the_reader_gives(tmp_path):
    write_cases(tmp_path, ["a1"])
    row = {"case": "a1", "patient": "a1", "source": "images/a1.nii.gz", "annotation": "labels/a1.nii.gz"}
    cohort = settings(tmp_path)
    marked, host = (table.prepare_case(row | {"role": role}, cohort, tmp_path) for role in ("marked", "host"))
    assert len(marked.about["nodules"]) == 2 and "role" not in marked.about
    assert is_host(host.about) and not host.about["nodules"] and not host.nodules.any()
    assert np.array_equal(host.ct, marked.ct)


def test_a_host_of_a_hospital_goes_by_its_number_from_the_folder_to_the_table(tmp_path):
    """By the command line, as a run does it."""
    root, results = tmp_path / "raw", tmp_path / "results"
    write_cases(root, MARKED)
    write_image(root, "Doe_John", "hosts")
    cohort = settings(root, public_names=False)
    names = ["--names", str(results / "private/names.tsv"), "--root", str(root)]
    listing, out = str(results / "listing.tsv"), str(results / "cohort.tsv")
    said = ["--cohort", as_json(part(cohort, Listing)), "--seed", "0", "--workers", "1"]
    assert main(["cohort", "index", *said, *names, "--out", listing]) == 0
    rows = read_table(results / "listing.tsv")
    (host,) = (row["case"] for row in rows if is_host(row))
    for row in rows:
        prepare = ["cohort", "prepare", "--case", row["case"], "--cohort", as_json(part(cohort, Preparation)), *names]
        assert main([*prepare, "--out", str(results / "cases" / row["case"])]) == 0
    files = [str(results / "cases" / row["case"] / "case.json") for row in rows]
    assert main(["cohort", "table", "--listing", listing, "--cases", *files, "--out", out]) == 0
    about = read_json(results / "cases" / host / "case.json")
    assert is_host(about) and about["nodules"] == [] and "Doe" not in json.dumps(about) + Path(out).read_text()
    assert [row["case"] for row in read_table(Path(out)) if is_host(row)] == [host]
    assert {row["slice_mm"] for row in read_table(Path(out))} == {"1"}


def test_tables_of_before_know_no_role():
    assert not is_host({"case": "a"})
    rows = [{"case": "a", "patient": "A", "split": "train", "train_rank": "1"}]
    assert training_set(rows, 50)(rows[0])


# ------------------------------------------------------------------------------------------------- what they are for


@pytest.fixture
def with_hosts(case_folders, tmp_path) -> tuple[list[Path], list[Path]]:
    """Three marked cases, and two hosts."""
    hosts = []
    for i in (5, 6):
        case = make_case((24, 32, 22), seed=i, name=f"host-{i}")
        case.about.update(nodules=[], role="host")
        write_case(tmp_path / f"host-{i}", case.with_labels(nodules=np.zeros_like(case.nodules)))
        hosts.append(tmp_path / f"host-{i}")
    return [case_folders[i] for i in (0, 1, 3)], hosts


@pytest.mark.parametrize("source", [untargeted, inpainted])
def test_hosts_lend_their_bodies_and_get_nodules_of_others(with_hosts, source):
    marked, hosts = with_hosts
    folders = {folder.name: folder for folder in [*marked, *hosts]}
    masks, settings_of = source.Family(), source.Settings()
    rows = masks.rows(list(folders.values()), 10, 0, settings_of)
    assert {row["body_case"] for row in rows} == set(folders)
    assert {row["nodule_case"] for row in rows} == {folder.name for folder in marked}
    for row in rows:
        scene = masks.scene({k: str(v) for k, v in row.items()}, lambda name: open_case(folders[name]))
        assert scene.placed and (scene.labels["nodules"] > 0).any()
        if source is inpainted and row["body_case"].startswith("host"):
            assert scene.known.about["role"] == "host" and scene.made.max() == 1
    with pytest.raises(InputError, match="no train case to take nodules from"):
        masks.rows(hosts, 3, 0, settings_of)


def test_marked_cases_alone_get_the_rows_that_they_always_had(with_hosts):
    marked, _ = with_hosts
    rows = untargeted.Family().rows(marked, 6, 0, untargeted.Settings())
    pairs = [(row["body_case"][-1], row["nodule_case"][-1]) for row in rows]
    assert pairs == [*map(tuple, ("33", "01", "10", "11", "03", "30"))]  # as before there were hosts


def test_made_chests_are_mixed_of_hosts_and_have_as_many_nodules_as_marked_cases(with_hosts):
    marked, hosts = with_hosts
    rows = made.Family().rows([*marked, *hosts], 12, 3, made.Settings(patients=5))
    assert all(set(row["cases"].split()) == {folder.name for folder in [*marked, *hosts]} for row in rows)
    assert all(len(row["nodules"].split()) == 2 for row in rows)  # of every marked case; not 1, as in none


def test_nodules_are_pasted_into_a_host(with_hosts):
    marked, hosts = with_hosts
    folders = {folder.name: folder for folder in [*marked, *hosts]}
    pasting = family("generators", "copy_paste").load(None, None, None, None)
    rows = inpainted.Family().rows([*folders.values()], 10, 0, inpainted.Settings())
    row = next(row for row in rows if row["body_case"] == "host-5")
    case = made_case(pasting, row, Synthesis(), lambda name: open_case(folders[name]))
    assert case.about["known_case"] == "host-5" and case.about["new_nodules"] > 0 and case.about["nodules"]


def test_patches_are_taken_of_hosts_and_near_nodules_of_marked_cases(with_hosts, generator_settings):
    marked, hosts = with_hosts
    patches = TrainingPatches([*marked, *hosts], generator_settings, seed=0)
    of = [patches[i].case for i in range(60)]
    assert {3, 4} < set(of) and of.count(3) + of.count(4) < 30  # a half is near nodules
    near = TrainingPatches([*marked, *hosts], generator_settings.model_copy(update={"nodule_patches": 1.0}), seed=0)
    assert all(near[i].case < 3 and near[i].masks[0].any() for i in range(20))
    alone = TrainingPatches(hosts, generator_settings, seed=0)  # of whom some watch a training by themselves
    assert not any(alone[i].masks[0].any() for i in range(5))


@pytest.mark.parametrize("seed", range(5))
def test_of_marked_patients_and_of_hosts_some_teach_and_some_watch(with_hosts, generator_settings, seed):
    """Else a nodule might be learned by none, or watched by none; and marked ones are dealt as without hosts."""
    (marked, hosts), half = with_hosts, generator_settings.model_copy(update={"held_out": 0.5})
    learned, watching = hold_out([*marked, *hosts], half, seed)
    assert len(set(learned) & set(hosts)) == len(set(watching) & set(hosts)) == 1
    alone = hold_out(marked, half, seed)
    assert [[f for f in group if f in marked] for group in (learned, watching)] == [*alone] and alone[1]
    assert hold_out(hosts[:1], half, seed) == (hosts[:1], [])


def test_the_live_picture_shows_nodules_also_where_only_hosts_watch(with_hosts):
    marked, hosts = with_hosts
    assert with_nodules(hosts) == [] and [name for name, _ in with_nodules(marked)] == [f.name for f in marked]


def test_ranges_are_measured_on_hosts_too_and_nodules_on_the_others(with_hosts):
    folders = [f for group in with_hosts for f in group]
    found = reference({f.name: measures_of(open_case(f), None) for f in folders}, 0.05)
    assert found["measures"]["lung_hu"]["cases"] == 5 and found["measures"]["nodule_hu"]["cases"] == 3


def test_membership_is_asked_of_those_alone_whose_loss_can_be_compared(with_hosts, generator_settings):
    marked, hosts = with_hosts

    class Learner:
        def learned_from(self, folders, seed):
            return hold_out(list(folders), generator_settings.model_copy(update={"held_out": 0.0}), seed)[0]

    facts = {"cases": [f.name for f in [*marked, *hosts]], "seed": 0}
    groups = membership.case_groups(Learner(), facts, [*marked, *hosts], [])
    assert groups["learned"] == marked
    with pytest.raises(InputError, match="host-5, which is not among"):
        membership.case_groups(Learner(), facts, marked, [])


def test_nodules_inpainted_into_a_host_are_compared_with_marked_cases(with_hosts, tmp_path):
    marked, hosts = with_hosts
    folders = {folder.name: folder for folder in [*marked, *hosts]}
    pasting = family("generators", "copy_paste").load(None, None, None, None)
    row = next(
        row for row in inpainted.Family().rows([*folders.values()], 10, 0, inpainted.Settings())
        if row["body_case"] == "host-6"
    )  # fmt: skip
    case = made_case(pasting, row, Synthesis(), lambda name: open_case(folders[name]))
    case.about["case"] = "made"
    write_case(tmp_path / "made", case)
    found = openers([*marked[:2], *hosts], marked[2:], [tmp_path / "made"])
    assert [len(opened) for opened in found.values()] == [2, 1, 1]

    def nothing(images, masks):
        return np.zeros((len(images), 1))

    for opened in found.values():
        for opener in opened:
            assert measure(opener(), 2, nothing).features


def test_a_segmenter_takes_no_host_for_a_healthy_case(with_hosts, tmp_path, capsys):
    marked, hosts = with_hosts
    arguments = [
        "segmentation",
        "train",
        "--segmenter",
        "{}",
        "--of",
        "segmenter=s",
        "arm=a",
        "size=100",
        "replicate=0",
    ]
    files = [f"--{name}={tmp_path / name}" for name in ("checkpoints", "model", "curve")]
    given = [str(folder / "case.json") for folder in [marked[0], hosts[0]]]
    assert main([*arguments, "--seed", "0", "--cases", *given, *files]) == 2
    assert "host-5 is a host" in capsys.readouterr().err


def test_nnunet_gets_no_host(with_hosts, tmp_path, capsys):
    marked, hosts = with_hosts
    cases = [(f.name, open_case(f)) for f in [marked[0], *hosts]]
    for _, case in cases:
        case.about.setdefault("dataset", "nifti")
    export.write_nnunet(tmp_path / "out", cases)
    assert [path.name for path in (tmp_path / "out/labelsTr").iterdir()] == ["case-0.nii.gz"]
    assert "2 hosts" in capsys.readouterr().out
    with pytest.raises(InputError, match="no case to export"):
        export.write_nnunet(tmp_path / "none", cases[1:])


def test_the_report_counts_hosts_by_themselves():
    row = {"status": "included", "split": "train", "n_nodules": "2", "reason": "", "warnings": "", "role": "marked"}
    rows = [row | {"case": c, "patient": c} for c in "ab"]
    rows += [row | {"case": c, "patient": p, "role": "host", "n_nodules": "0"} for c, p in ("ca", "de", "fe")]
    found = cohort_summary(rows)
    assert found["hosts"] == {"cases": 3, "patients": 2}
    assert (found["splits"][0]["cases"], found["splits"][0]["patients"]) == (2, 2)
