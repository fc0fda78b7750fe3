"""Splits by seed, by the papers' numbers, and as given by the user."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modalign.datasets.base import CaseFiles
from modalign.datasets.splits import PRESETS, draw_split
from modalign.errors import ConfigError, DataError


def cases(n: int, **more) -> list[CaseFiles]:
    return [CaseFiles(f"c{i:03}", Path(f"f{i}"), Path(f"m{i}"), **more) for i in range(n)]


def counts(drawn) -> dict[str, int]:
    values = list(drawn.of_case.values())
    return {name: values.count(name) for name in dict.fromkeys(values)}


def test_a_split_is_drawn_by_seed_and_data_set_and_not_by_order():
    many = cases(20)
    rule = {"train": 10, "validation": 2, "test": 5}
    first = draw_split(many, rule, 0, "a")
    assert draw_split(many[::-1], rule, 0, "a") == first
    assert sorted(counts(first).items()) == [("test", 5), ("train", 10), ("validation", 2)]
    assert draw_split(many, rule, 1, "a").of_case != first.of_case
    assert draw_split(many, rule, 0, "b").of_case != first.of_case
    assert first.rule == "train 10 / validation 2 / test 5 of 20 patients, drawn by seed 0"


def test_every_patient_is_as_likely_to_be_tested():
    tested = np.zeros(10)
    for seed in range(400):
        drawn = draw_split(cases(10), {"train": 7, "test": 3}, seed)
        tested += [drawn.of_case[f"c{i:03}"] == "test" for i in range(10)]
    # 400 draws with probability 0.3: mean 120, sd 9.2.
    assert abs(tested - 120).max() < 4 * 9.2


def test_fractions_use_everybody_once_and_give_every_split_somebody():
    drawn = draw_split(cases(10), {"train": 0.7, "validation": 0.1, "test": 0.2}, 0)
    assert sorted(counts(drawn).items()) == [("test", 2), ("train", 7), ("validation", 1)]
    assert len(drawn.of_case) == 10
    assert sorted(counts(draw_split(cases(11), {"train": 0.5, "test": 0.25}, 0)).items()) == [("test", 3), ("train", 5)]
    drawn = draw_split(cases(3), {"train": 0.9, "validation": 0.05, "test": 0.05}, 0)
    assert sorted(drawn.of_case.values()) == ["test", "train", "validation"]


def test_scans_of_one_patient_stay_together():
    many = [replace(case, patient=f"p{i // 3}") for i, case in enumerate(cases(30))]
    drawn = draw_split(many, {"train": 6, "test": 4}, 0)
    for i in range(0, 30, 3):
        assert len({drawn.of_case[f"c{j:03}"] for j in range(i, i + 3)}) == 1
    assert sorted(counts(drawn).items()) == [("test", 12), ("train", 18)]
    leaking = [replace(case, split="train" if i else "test") for i, case in enumerate(many[:3])]
    with pytest.raises(DataError, match=r"patient p0 is in two splits \(c000 is in test and c002 is in train\)"):
        draw_split(leaking, None, 0)


def test_too_few_patients_and_senseless_rules():
    with pytest.raises(DataError, match=r"needs 165 patients, but data set pelvis has 42. Ask for fewer, or for frac"):
        draw_split(cases(42), "rbg-pelvis", 0, "pelvis")
    with pytest.raises(DataError, match=r"locor-abdomen names 0002, .*, which the data set hasn't: it has c000, c001"):
        draw_split(cases(2), "locor-abdomen", 0)
    with pytest.raises(ConfigError, match=r"split names \['valid'\]; the splits are: train, validation, test"):
        draw_split(cases(4), {"train": 2, "valid": 2}, 0)
    with pytest.raises(ConfigError, match="add up to 1.1, more than 1"):
        draw_split(cases(4), {"train": 0.6, "test": 0.5}, 0)
    with pytest.raises(ConfigError, match=r"split train: -1: write counts of patients"):
        draw_split(cases(4), {"train": -1, "test": 2}, 0)
    with pytest.raises(ConfigError, match=r"split train 2 / test rest: write counts for all splits, or fractions"):
        draw_split(cases(4), {"train": 2, "test": "rest"}, 0)
    with pytest.raises(ConfigError, match=r"split 'rbg-pelvs' is neither a file nor a known name \(rbg-pelvis, "):
        draw_split(cases(4), "rbg-pelvs", 0)
    with pytest.raises(ConfigError, match="no split comes with this data"):
        draw_split(cases(4), "published", 0)
    with pytest.raises(DataError, match="these cases have no split, but others have: c001"):
        draw_split([replace(cases(1)[0], split="test"), cases(2)[1]], None, 0)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_hold_the_papers_numbers(preset):
    expected = {
        "rbg-pelvis": (112, 18, 35), "rbg-cbct": (126, 18, 36), "rbg-ixi": (25, 5, 10), "locor-ixi": (0, 3, 49),
        "locor-abdomen": (0, 3, 4), "locor-cermep": (0, 3, 34), "imse-brats": (187, 0, 20),
        "imse-clinical": (80, 0, 18), "cao": (12, 1, 2),
    }[preset]  # fmt: skip
    if preset == "locor-cermep":
        there = [CaseFiles(f"sub-{i:04}", Path("f"), Path("m")) for i in range(1, 38)]
    elif preset == "locor-abdomen":
        there = [CaseFiles(f"{i:04}", Path("f"), Path("m")) for i in range(2, 17, 2)]
    else:
        there = cases(200 if sum(expected) < 200 else 335)
    drawn = list(draw_split(there, preset, 0).of_case.values())
    assert tuple(drawn.count(name) for name in ("train", "validation", "test")) == expected
    if preset == "locor-abdomen":
        assert "0006" not in draw_split(there, preset, 0).of_case


def test_a_split_that_names_cases_of_another_archive_is_refused():
    there = [CaseFiles(f"{i:04}", Path("f"), Path("m")) for i in range(1, 17)]
    with pytest.raises(
        ConfigError,
        match=r"locor-abdomen names cases of the archive learn2reg-abdomen-mr-ct-2021, but abdomen is read from "
        r"learn2reg-abdomen-mr-ct, where the same ids are other patients. Read .*-2021, or have a split drawn",
    ):
        draw_split(there, "locor-abdomen", 0, "abdomen", archive="learn2reg-abdomen-mr-ct")
    assert len(draw_split(there, "locor-abdomen", 0, archive="learn2reg-abdomen-mr-ct-2021").of_case) == 7
    assert len(draw_split(there, {"test": 3}, 0, archive="learn2reg-abdomen-mr-ct").of_case) == 3


def test_max_cases_keeps_the_proportions_and_every_split():
    drawn = draw_split(cases(180), "rbg-cbct", 0, max_cases=20)
    assert sorted(counts(drawn).items()) == [("test", 4), ("train", 14), ("validation", 2)]
    assert "scaled to train 14 / validation 2 / test 4 as at most 20 cases were asked for" in drawn.rule
    # A partial download has fewer cases than the paper.
    assert sorted(counts(draw_split(cases(4), "rbg-cbct", 0, max_cases=4)).items()) == [
        ("test", 1), ("train", 2), ("validation", 1),
    ]  # fmt: skip
    there = [CaseFiles(f"sub-{i:04}", Path("f"), Path("m")) for i in range(1, 38)]
    assert sorted(counts(draw_split(there, "locor-cermep", 0, max_cases=5)).items()) == [("test", 4), ("validation", 1)]
    with pytest.raises(DataError, match="2 patients are too few for the splits train, validation, test: allow 3"):
        draw_split(cases(180), "rbg-cbct", 0, max_cases=2)


def test_a_split_file_is_read_beside_the_data_and_its_mistakes_are_listed(tmp_path):
    (tmp_path / "split.tsv").write_text("case\tsplit\nc001\ttest\nc000\ttrain\n")
    drawn = draw_split(cases(3), "split.tsv", 0, folder=tmp_path)
    assert (drawn.of_case, drawn.rule) == ({"c000": "train", "c001": "test"}, "from split.tsv")
    (tmp_path / "bad.tsv").write_text("c001 test\nc009\ttest\nc000\ttrain\nc000\ttest\n")
    with pytest.raises(DataError) as caught:
        draw_split(cases(3), str(tmp_path / "bad.tsv"), 0)
    for part in (
        "line 1 is ['c001 test']",
        "line 2: there is no case 'c009'",
        "line 4: case 'c000' is in train already",
    ):
        assert part in str(caught.value)
