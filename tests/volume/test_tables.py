import pytest

from lungsyn.errors import InputError
from lungsyn.volume.tables import read_table, write_table


def test_rows_come_back_as_text(tmp_path):
    write_table(tmp_path / "t.tsv", [{"a": "x\ty", "b": 1 / 3, "c": None, "d": 0}], ["a", "b", "c", "d"])
    assert read_table(tmp_path / "t.tsv") == [{"a": "x\ty", "b": "0.333333", "c": "", "d": "0"}]


def test_only_the_named_columns_are_written_in_order(tmp_path):
    write_table(tmp_path / "t.tsv", [{"b": 2, "a": 1, "z": 3}], ["a", "b"])
    assert (tmp_path / "t.tsv").read_text() == "a\tb\n1\t2\n"


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no\.tsv: not a readable tab-separated table"):
        read_table(tmp_path / "no.tsv")
