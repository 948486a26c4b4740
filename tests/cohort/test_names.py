"""Names from outside: two spellings of one, two that only look alike to a machine, and the folders they become."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungsyn.cohort.names import LONGEST_FOLDER, alike, as_folder, readable, spelling_key

SAME = [
    ("Müller", unicodedata.normalize("NFD", "Müller")),
    ("Müller", "M\udcfcller"),
    ("PAT-01", "pat-01"),
    ("PAT-01", "PAT_1"),
    ("PAT–01", "PAT-01"),
    ("Mia  K", "Mia K"),
    ("Mia K ", "Mia K"),
    ("x y", "x\u00a0y"),
    ("x y", "x\u2009y"),
    ("x\u200by", "xy"),
    ("007", "7"),
    ("7.0", "7"),
    ("P007b", "P7b"),
    ("Ｐ１", "P1"),
    ("O'Neil", "O’Neil"),
    ("Straße", "STRASSE"),
    ("PAT-01", "PAT01"),
    ("P1", "P 1"),
    ("P\u22121", "P-1"),
    ("P/1", "P-1"),
    ("P.1", "P1"),
    ("Smith, J.", "smith j"),
    ("'007", "7"),
    ("#12", "(12)"),
    ("\u0661\u0662", "12"),
    ("P1\ufe0f", "P1"),
    ("ONeil", "O\u02bcNeil"),
]
OTHER = [
    ("P1", "P10"), ("P0", "P00x"), ("100", "10"), ("Müller", "Muller"), ("a-b", "ab"), ("1.05", "1.5"), ("7.5", "7"),
    ("张三", "李四"), ("कि", "की"), ("p+", "p-"), ("1-1", "11"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_two_spellings_of_one_name_are_alike(one, other):
    assert alike(["someone else", one, other]) == tuple(sorted((one, other)))


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_two_names_are_not(one, other):
    assert alike([one, other]) is None


@given(st.text(st.characters(exclude_categories=[]), max_size=8))
def test_any_name_has_one_key_and_a_harmless_folder(name):
    assert spelling_key(name) == spelling_key(readable(name))
    folder = as_folder(name)
    assert folder == as_folder(readable(name))
    assert folder.isascii() and not set(folder) & set("/. {}<>\n\r\t\\*?")


@pytest.mark.parametrize(
    ("one", "other"), [("张三", "李四"), ("Müller", "Möller"), ("a" * 200 + "1", "a" * 200 + "2"), ("аб", "вг")]
)
def test_replaced_letters_do_not_collide(one, other):
    assert as_folder(one) != as_folder(other)
    assert len(as_folder(one).encode()) <= LONGEST_FOLDER


def test_plain_names_stay_what_they_are():
    for name in ("lung_001", "LIDC-IDRI-0001_R_1", "a+b", "L" * 120):
        assert as_folder(name) == name
    assert as_folder("scan 1.a") == "scan-1-a"
