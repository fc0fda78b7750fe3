"""Ranks of methods over cases: by hand, and with a clear winner."""

from pathlib import Path

import numpy as np
from toy_tables import DATA, write

from modalign.report.ranking import rank_methods


class TestRanking:
    def test_by_hand(self, tmp_path: Path) -> None:
        paths = [
            write(tmp_path, "a", {"dice": [0.9, 0.8], "hd95_mm": [1, 5]}),
            write(tmp_path, "b", {"dice": [0.7, 0.8], "hd95_mm": [2, 4]}),
            write(tmp_path, "c", {"dice": [0.1, 0.1]}),
        ]
        ranking = rank_methods(paths, {"dice": "higher", "hd95_mm": "lower"})[DATA]
        # Case 1: a is first on both. Case 2: tied Dice 1.5 each, b first on HD95, so b is ahead.
        assert [(m.method, m.mean_rank) for m in ranking.methods] == [("a", 1.5), ("b", 1.5)]
        assert ranking.methods[0].ranks == {"dice": 1.25, "hd95_mm": 1.5}
        assert ranking.left_out == {"c": "no hd95_mm"}
        assert ranking.critical_difference is None
        assert "2 cases and 2 methods" in ranking.note

    def test_clear_winner(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        base = rng.uniform(size=20)
        paths = [
            write(tmp_path, name, {"dice": list(base + shift + rng.normal(0, noise, 20))})
            for name, shift, noise in (("best", 1.0, 0.01), ("same", 0.0, 0.05), ("also", 0.0, 0.05))
        ]
        ranking = rank_methods(paths, {"dice": "higher"})[DATA]
        assert ranking.methods[0].method == "best"
        assert ranking.methods[0].mean_rank == 1.0
        assert ranking.friedman_p is not None
        assert ranking.friedman_p < 1e-4
        assert [set(group) for group in ranking.cliques] == [{"same", "also"}]

    def test_only_the_cases_asked_for(self, tmp_path: Path) -> None:
        paths = [write(tmp_path, "a", {"dice": [1, 0]}), write(tmp_path, "b", {"dice": [0, 1]})]
        ranking = rank_methods(paths, {"dice": "higher"}, {DATA: ["p01"]})[DATA]
        assert [m.method for m in ranking.methods] == ["b", "a"]
        assert ranking.cases == 1
