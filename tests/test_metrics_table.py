"""The files of metrics: the same numbers back, and what is said of broken ones."""

import pytest

from modalign.errors import DataError
from modalign.metrics.table import Row, read_metrics, write_metrics


class TestTable:
    ROWS = (
        Row("toy", "syn-rbg", 0, "p1", 3, "", "gc", 0.1 + 0.2),
        Row("toy", "syn-rbg", 0, "p1", None, "hip_bones", "dice", 1 / 3),
        Row("toy", "syn-rbg", 0, "", None, "", "kid_random", -1.5e-05),
    )

    def test_comes_back_to_the_last_digit(self, tmp_path):
        write_metrics(tmp_path / "m" / "seed0.tsv", self.ROWS)
        assert read_metrics(tmp_path / "m" / "seed0.tsv") == list(self.ROWS)

    def test_as_text(self, tmp_path):
        write_metrics(tmp_path / "t.tsv", self.ROWS[:1])
        assert (tmp_path / "t.tsv").read_text() == (
            "dataset\tmethod\tseed\tcase\tslice\tstructure\tmetric\tvalue\tpatient\n"
            "toy\tsyn-rbg\t0\tp1\t3\t\tgc\t0.30000000000000004\t\n"
        )

    def test_broken_files(self, tmp_path):
        write_metrics(tmp_path / "t.tsv", self.ROWS)
        text = (tmp_path / "t.tsv").read_text()
        (tmp_path / "t.tsv").write_text(text.replace("0.30000000000000004", "high"))
        with pytest.raises(DataError, match=r"t\.tsv, line 2 can't be read .*: measure again"):
            read_metrics(tmp_path / "t.tsv")
        (tmp_path / "t.tsv").write_text("a\tb\n")
        with pytest.raises(DataError, match=r"has the columns \['a', 'b'\]"):
            read_metrics(tmp_path / "t.tsv")
        with pytest.raises(DataError, match="does not exist"):
            read_metrics(tmp_path / "none.tsv")
