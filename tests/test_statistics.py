"""Averages, tests, intervals and ranks against hand calculations, SciPy and statsmodels."""

import numpy as np
import pandas as pd
import pytest

from modalign import statistics
from modalign.errors import DataError
from modalign.seeds import generator
from modalign.statistics import COLUMNS, Samples


def rows(*lines: tuple[object, ...]) -> pd.DataFrame:
    """Lines of (seed, case, slice, structure, value); a patient's cases begin with the same letter."""
    full = [("data", "method", str(s), c, str(z), structure, "gc", v, c[0]) for s, c, z, structure, v in lines]
    return pd.DataFrame(full, columns=list(COLUMNS))


def one_per_case(values: np.ndarray) -> Samples:
    units = tuple((f"p{i}", "") for i in range(len(values)))
    return Samples(units, np.asarray(values, float), np.array([patient for patient, _ in units]))


class TestAverages:
    def test_seeds_then_structures_then_slices(self) -> None:
        # Slice 0 has two seeds and two structures, slice 1 one of each: by hand ((1 + 3)/2 + 6)/2 = 4, then (4 + 10)/2.
        table = rows((0, "a", 0, "x", 1), (1, "a", 0, "x", 3), (0, "a", 0, "y", 6), (0, "a", 1, "x", 10))
        result = statistics.samples(table)
        assert result.units == (("a", ""),)
        assert result.values == pytest.approx([7.0])
        assert result.seeds == 2

    def test_every_patient_counts_once(self) -> None:
        table = rows(*[(0, "a", z, "", 1.0) for z in range(9)], (0, "b", 0, "", 3.0))
        assert statistics.samples(table).values.mean() == pytest.approx(2.0)
        assert statistics.samples(table, "slice").values.mean() == pytest.approx(1.2)

    def test_a_patient_with_several_cases_counts_once(self) -> None:
        # By hand: a has (1 + (2 + 4)/2)/2 = 2.
        table = rows((0, "a1", 0, "", 1), (0, "a2", 0, "", 2), (0, "a2", 1, "", 4), (0, "b1", 0, "", 8))
        result = statistics.samples(table)
        assert (result.units, list(result.values)) == ((("a", ""), ("b", "")), [2.0, 8.0])
        by_slice = statistics.samples(table, "slice")
        assert by_slice.units == (("a1", "0"), ("a2", "0"), ("a2", "1"), ("b1", "0"))
        assert list(by_slice.patients) == ["a", "a", "a", "b"]

    def test_slices_as_unit_keep_their_patient(self) -> None:
        result = statistics.samples(rows((0, "a", 0, "", 1), (0, "a", 1, "", 2), (0, "b", 0, "", 3)), "slice")
        assert result.units == (("a", "0"), ("a", "1"), ("b", "0"))
        assert list(result.patients) == ["a", "a", "b"]

    def test_only_common_units_are_paired(self) -> None:
        first = Samples((("a", ""), ("b", ""), ("c", "")), np.array([1.0, 2.0, 3.0]), np.array(["a", "b", "c"]))
        second = Samples((("c", ""), ("a", "")), np.array([30.0, 10.0]), np.array(["c", "a"]))
        x, y, patients = statistics.paired(first, second)
        assert (list(x), list(y), list(patients)) == ([1.0, 3.0], [10.0, 30.0], ["a", "c"])


class TestReading:
    def write(self, path, lines):
        path.write_text("\n".join("\t".join(map(str, line)) for line in lines) + "\n")
        return path

    def test_reads_and_drops_values_that_are_not_finite(self, tmp_path) -> None:
        line = ["d", "m", 0, "NA", 3, "", "gc"]
        path = self.write(tmp_path / "seed0.tsv", [COLUMNS, [*line, 0.25], [*line[:4], 4, "", "gc", "nan"]])
        table = statistics.read_metrics([path])
        assert table["value"].tolist() == [0.25]
        assert table["case"].tolist() == ["NA"]
        assert table["patient"].tolist() == ["NA"]

    def test_missing_column(self, tmp_path) -> None:
        path = self.write(tmp_path / "seed0.tsv", [["dataset", "method"], ["d", "m"]])
        with pytest.raises(DataError, match=r"seed0\.tsv lacks the columns seed, case"):
            statistics.read_metrics([path])

    def test_value_that_is_no_number(self, tmp_path) -> None:
        path = self.write(tmp_path / "seed0.tsv", [COLUMNS, ["d", "m", 0, "a", 0, "", "gc", "high"]])
        with pytest.raises(DataError, match="not a number"):
            statistics.read_metrics([path])

    def test_missing_file(self, tmp_path) -> None:
        with pytest.raises(DataError, match="does not exist"):
            statistics.read_metrics([tmp_path / "seed0.tsv"])

    def test_same_file_twice(self, tmp_path) -> None:
        path = self.write(tmp_path / "seed0.tsv", [COLUMNS, ["d", "m", 0, "a", 0, "", "gc", 1]])
        with pytest.raises(DataError, match=r"same value twice.*case a"):
            statistics.read_metrics([path, path])


class TestWilcoxon:
    def test_all_of_six_better(self) -> None:
        # Under the null each of the 2^6 sign patterns is as likely; two are as extreme.
        assert statistics.wilcoxon_p(np.arange(1.0, 7.0), np.zeros(6)) == pytest.approx(2 / 64)

    def test_five_pairs_never_reach_five_percent(self) -> None:
        assert statistics.wilcoxon_p(np.arange(1.0, 6.0), np.zeros(5)) == pytest.approx(statistics.smallest_p(5))
        assert statistics.smallest_p(5) > 0.05 > statistics.smallest_p(6)

    def test_enumeration_agrees(self) -> None:
        x = np.array([0.3, -0.1, 0.7, 0.2, 0.5, -0.4, 0.9])
        ranks = np.argsort(np.argsort(abs(x))) + 1
        signs = np.array(np.meshgrid(*[[0, 1]] * 7)).reshape(7, -1).T
        null = signs @ ranks
        observed = ranks[x > 0].sum()
        expected = 2 * min((null >= observed).mean(), (null <= observed).mean())
        assert statistics.wilcoxon_p(x, np.zeros(7)) == pytest.approx(expected)

    def test_pairs_without_difference_are_dropped(self, rng) -> None:
        x, y = rng.normal(size=20), rng.normal(size=20)
        with_zeros = statistics.wilcoxon_p(np.append(x, [1, 1, 1]), np.append(y, [1, 1, 1]))
        assert with_zeros == pytest.approx(statistics.wilcoxon_p(x, y))

    def test_equal_and_empty(self) -> None:
        assert statistics.wilcoxon_p(np.ones(8), np.ones(8)) == 1.0
        assert np.isnan(statistics.wilcoxon_p(np.empty(0), np.empty(0)))

    def test_false_positives_are_as_rare_as_they_should(self, rng) -> None:
        hits = [statistics.wilcoxon_p(rng.normal(size=12), rng.normal(size=12)) < 0.05 for _ in range(600)]
        assert 0.02 < np.mean(hits) < 0.08


class TestHolm:
    def test_by_hand(self) -> None:
        assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])

    @pytest.mark.parametrize("count", [1, 2, 5, 15])
    def test_as_statsmodels(self, count, rng) -> None:
        from statsmodels.stats.multitest import multipletests

        for digits in (1, 3, 17):
            # Few digits make ties.
            p = rng.random(count).round(digits) ** 2
            assert statistics.holm(p) == pytest.approx(multipletests(p, method="holm")[1])

    def test_untested_rows_do_not_count(self) -> None:
        assert statistics.holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


class TestBeats:
    @pytest.mark.parametrize(("direction", "count"), [("higher", 1), ("lower", 2)])
    def test_ties_do_not_count(self, direction: str, count: int) -> None:
        assert statistics.beats(np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 4, 3]), direction) == (count, 4)


class TestBootstrap:
    def test_as_scipy(self, rng) -> None:
        from scipy.stats import bootstrap

        values = rng.gamma(2.0, size=30)
        ours = statistics.bootstrap_interval(values, np.arange(30), np.random.default_rng(1), n_boot=20_000)
        theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(2))
        width = theirs.confidence_interval.high - theirs.confidence_interval.low
        assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * width)

    @pytest.mark.parametrize(("patients", "low", "high"), [(5, 0.76, 0.89), (40, 0.91, 0.97)])
    def test_coverage(self, patients: int, low: float, high: float) -> None:
        rng = np.random.default_rng(0)
        held = []
        for _ in range(500):
            values = rng.normal(size=patients)
            a, b = statistics.bootstrap_interval(values, np.arange(patients), rng, n_boot=500)
            held.append(a <= 0 <= b)
        assert low < np.mean(held) < high

    def test_slices_of_a_patient_are_no_new_evidence(self, rng) -> None:
        patients = np.repeat(np.arange(10), 50)
        values = np.repeat(rng.normal(size=10), 50)
        repeated = statistics.bootstrap_interval(values, patients, np.random.default_rng(3))
        single = statistics.bootstrap_interval(values[::50], patients[::50], np.random.default_rng(3))
        naive = statistics.bootstrap_interval(values, np.arange(500), np.random.default_rng(3))
        assert repeated == pytest.approx(single)
        assert naive[1] - naive[0] < 0.3 * (single[1] - single[0])

    def test_patients_with_many_slices_weigh_more_as_in_the_mean(self, rng) -> None:
        patients = np.array([0] * 20 + [1] * 3 + [2] * 8)
        values = rng.normal(size=31) + patients
        draws = np.random.default_rng(4).multinomial(3, np.full(3, 1 / 3), size=300)
        means = [np.mean(np.concatenate([np.tile(values[patients == i], k) for i, k in enumerate(d)])) for d in draws]
        interval = statistics.bootstrap_interval(values, patients, np.random.default_rng(4), n_boot=300)
        assert interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))

    def test_same_purpose_same_interval(self) -> None:
        values = np.array([1.0, 2.0, 4.0])
        intervals = {
            statistics.bootstrap_interval(values, np.arange(3), generator(seed, "data", "bootstrap"))
            for seed in (0, 0, 0)
        }
        assert len(intervals) == 1

    def test_one_patient_has_no_interval(self) -> None:
        assert np.isnan(statistics.bootstrap_interval(np.ones(5), np.zeros(5), np.random.default_rng(0))).all()


class TestRanks:
    def test_ties_share_ranks(self) -> None:
        scores = np.array([[1.0, 2.0, 2.0], [3.0, 1.0, 2.0]])
        assert statistics.average_ranks(scores) == pytest.approx([2.0, 1.75, 2.25])

    @pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
    def test_critical_values_of_demsar(self, methods: int, q: float) -> None:
        expected = q * np.sqrt(methods * (methods + 1) / (6 * 30))
        assert statistics.nemenyi_critical_difference(methods, 30) == pytest.approx(expected, rel=5e-4)

    def test_example_of_demsar(self) -> None:
        # Demšar 2006, section 3.2.2: four classifiers on 14 data sets have a critical difference of 1.25.
        assert statistics.nemenyi_critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)

    def test_friedman_by_formula(self, rng) -> None:
        scores = rng.normal(size=(12, 4)) + np.array([0, 0, 0.5, 1])
        ranks = statistics.average_ranks(scores)
        chi2 = 12 * 12 / (4 * 5) * (np.sum(ranks**2) - 4 * 25 / 4)
        from scipy.stats import chi2 as distribution

        assert statistics.friedman_p(scores) == pytest.approx(distribution.sf(chi2, 3))
        assert statistics.friedman_p(np.ones((12, 3))) == 1.0

    def test_cliques(self) -> None:
        assert statistics.cliques([4.0, 1.0, 1.5, 3.2], 1.0) == [(1, 2), (3, 0)]
        assert statistics.cliques([1.0, 2.0, 3.0], 2.0) == [(0, 1, 2)]
        assert statistics.cliques([1.0, 3.0], 1.0) == []
