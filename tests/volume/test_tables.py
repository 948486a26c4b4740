"""Tables: what is written is read back equal, one line a row, and a spreadsheet runs none of it."""

import csv

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lungsyn.errors import InputError
from lungsyn.volume.tables import read_table, write_table

ANY_TEXT = st.text(st.characters(exclude_categories=[])) | st.text("\\u0dc5=+-@'\"\t\n\r 1.e", max_size=12)
ODD = [
    "a\nb",
    "a\rb",
    "a\r\nb",
    "a\tb",
    'say "x"',
    "\x00",
    "\u2028",
    "M\udcfcller",
    "\\udcfc",
    "\\u005cudcfc",
    "C:\\users",
]
FORMULAS = [
    '=HYPERLINK("http://x","y")',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\uff1d1+1",
    "'=1",
    "-dash",
    "-",
]
NUMBERS = ["-0.5", "+3", "-1e-05", "-12", "-.5", "-inf", "2024-01-01", "1-2"]


def test_rows_come_back_as_text(tmp_path):
    write_table(tmp_path / "t.tsv", [{"a": "x\ty", "b": 1 / 3, "c": None, "d": 0}], ["a", "b", "c", "d"])
    assert read_table(tmp_path / "t.tsv") == [{"a": "x\ty", "b": "0.333333", "c": "", "d": "0"}]


@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=4))
@example([(text, "x") for text in (*ODD, *FORMULAS, *NUMBERS)])
@example([("", "")])
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_text_comes_back_and_every_row_is_one_line(tmp_path, pairs):
    rows = [{"a": first, "b": second} for first, second in pairs]
    write_table(tmp_path / "t.tsv", rows, ["a", "b"])
    assert read_table(tmp_path / "t.tsv") == rows
    assert len((tmp_path / "t.tsv").read_text(encoding="utf-8").splitlines()) == 1 + len(rows)


@pytest.mark.parametrize("text", FORMULAS)
def test_a_spreadsheet_runs_no_cell(tmp_path, text):
    write_table(tmp_path / "t.tsv", [{"a": text, "b": 1}], ["a", "b"])
    with open(tmp_path / "t.tsv", newline="", encoding="utf-8") as file:
        (_, (cell, _)) = csv.reader(file, delimiter="\t")
    assert cell[0] == "'"


@pytest.mark.parametrize("value", [*NUMBERS, -0.5, -3, float("-inf"), "a=b", "x@y"])
def test_numbers_and_harmless_text_stay_what_they_are(tmp_path, value):
    write_table(tmp_path / "t.tsv", [{"a": value}], ["a"])
    assert (tmp_path / "t.tsv").read_text().splitlines()[1] == str(value)


def test_a_spreadsheet_s_list_keeps_what_it_says(tmp_path):
    """A mark at the beginning, quotes, a row that is too short and one that is too long."""
    (tmp_path / "t.tsv").write_bytes(b'\xef\xbb\xbfcase\tpatient\r\na\t"O\'Neil"\r\nb\r\nc\tp\tq\r\n')
    rows = [
        {"case": "a", "patient": "O'Neil"},
        {"case": "b", "patient": None},
        {"case": "c", "patient": "p", None: ["q"]},
    ]
    assert read_table(tmp_path / "t.tsv") == rows


def test_only_the_named_columns_are_written_in_order(tmp_path):
    write_table(tmp_path / "t.tsv", [{"b": 2, "a": 1, "z": 3}], ["a", "b"])
    assert (tmp_path / "t.tsv").read_text() == "a\tb\n1\t2\n"


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.tsv: not a readable table .*: save it as text in UTF-8, parted by tabs"):
        read_table(tmp_path / "no.tsv")


def test_a_column_that_is_missing_is_named(tmp_path):
    write_table(tmp_path / "a.tsv", [{"a": 1, "b": 2}], ["a", "b"])
    assert read_table(tmp_path / "a.tsv", ["b", "a"]) == [{"a": "1", "b": "2"}]
    with pytest.raises(InputError, match=r"a\.tsv: no column 'c'"):
        read_table(tmp_path / "a.tsv", ["a", "c"])
    write_table(tmp_path / "a.tsv", [], ["a"])
    assert read_table(tmp_path / "a.tsv", ["a"]) == []
