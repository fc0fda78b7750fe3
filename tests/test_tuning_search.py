"""Where a search looks next, which trial it chooses, and the published ranges."""

import numpy as np
import pytest

from modalign.errors import ConfigError
from modalign.gaussian_process import posterior_mean
from modalign.methods import method_class, method_names
from modalign.tuning_ranges import Range, ranges_of
from modalign.tuning_search import as_it_is, choose, suggest

optuna = pytest.importorskip("optuna")


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        ("niftyreg", {"preset": "locor"}, {"bending_energy": 0.001, "linear_energy": 0.01}),
        (
            "niftyreg",
            {"preset": "locor", "similarity": "mind", "linear_energy": 0.05},
            {"bending_energy": 1.0262e-4, "linear_energy": 0.05, "mind_offset": 1},
        ),
        (
            "syn",
            {"preset": "locor", "step": 0.3},
            {
                "rigid_step": 0.1,
                "affine_step": 0.1,
                "step": 0.3,
                "winsorize_quantile": 0.005,
                "update_variance": 3.0,
                "total_variance": 0.0,
                "linear_iterations": 100,
                "iterations": 40,
            },
        ),
        # Three levels of iterations aren't multiples on four, and 2100 on the first lies outside the range.
        (
            "syn",
            {"preset": "rbg"},
            {"affine_step": 0.25, "step": 0.2, "winsorize_quantile": 0, "update_variance": 3, "total_variance": 0},
        ),
        ("corrfield", {"alpha": 1000.0}, {"beta": 150.0, "gamma": 5.0, "delta": 1}),
    ],
)
def test_the_first_trial_has_the_options_of_the_preset(method, options, expected):
    resolved = method_class(method)(options).options.model_dump()
    found = as_it_is({"method": method, "dimension": 3, "options": options}, ranges_of(method, resolved))
    assert {name: at for name, at in found.items() if name != "search_radius"} == expected


def test_a_round_draws_as_many_trials_at_random_as_asked_for(monkeypatch):
    drawn = []
    sample = optuna.samplers.RandomSampler.sample_independent
    monkeypatch.setattr(
        optuna.samplers.RandomSampler, "sample_independent", lambda *args: drawn.append(1) or sample(*args)
    )
    own = []
    for step in range(6):
        drawn.clear()
        values = suggest({"a": Range(0.0, 1.0)}, [], "lower", own=own, startup=8, parallel=2)
        own.append({"values": values, "score": values["a"]})
        assert bool(drawn) == (step < 4)


SPACE = {"weight": Range(1e-1, 1e4, log=True), "terms": Range(1, 5, integer=True), "idle": Range(0.0, 1.0)}


def noisy(values, number):
    """Lowest at a weight of 100 and 4 terms, with noise."""
    distance = np.log10(values["weight"] / 100) ** 2 / 4 + (values["terms"] - 4) ** 2 / 8
    return float(distance + 0.05 * np.random.default_rng(number).standard_normal())


def test_the_search_beats_chance_on_a_noisy_function():
    better, sign = "higher", -1
    known = []
    while len(known) < 24:
        asked = [suggest(SPACE, known, better, lane=i, startup=8, parallel=4, seed=1) for i in range(4)]
        known += [
            {"trial": len(known) + i, "values": v, "score": sign * noisy(v, len(known) + i)}
            for i, v in enumerate(asked)
        ]
    chosen = known[choose(known, SPACE, better)]["values"]
    assert abs(np.log10(chosen["weight"] / 100)) < 0.5
    assert abs(chosen["terms"] - 4) <= 1
    late = np.mean([noisy(t["values"], 0) for t in known[12:]])
    assert late < 0.5 * np.mean([noisy(t["values"], 0) for t in known[:8]])
    assert all(isinstance(t["values"]["terms"], int) and 0.1 <= t["values"]["weight"] <= 1e4 for t in known)


def test_a_lucky_trial_is_not_chosen():
    good = [{"trial": i, "values": {"a": 0.7 + 0.02 * i}, "score": 1.0 + 0.01 * i} for i in range(8)]
    bad = [{"trial": 10 + i, "values": {"a": 0.1 + 0.02 * i}, "score": 1.6} for i in range(8)]
    bad[4]["score"] = 0.9
    chosen = choose([*good, *bad], {"a": Range(0.0, 1.0)}, "lower", share=1.0)
    assert chosen < 10


def test_only_the_best_share_counts():
    trials = [{"trial": i, "values": {"a": i / 9}, "score": float(i)} for i in range(10)]
    wild = [{**t, "score": 1e6} if t["trial"] >= 6 else t for t in trials]
    assert choose(wild, {"a": Range(0.0, 1.0)}, "lower") == choose(trials, {"a": Range(0.0, 1.0)}, "lower") == 0


def test_the_posterior_mean_is_closer_to_the_truth_than_the_noisy_values(rng):
    points = rng.random((40, 2))
    truth = np.sin(4 * points[:, 0])
    values = truth + 0.3 * rng.standard_normal(40)
    error = posterior_mean(points, values, seed=0) - truth
    assert np.sqrt(np.mean(error**2)) < 0.5 * 0.3
    np.testing.assert_allclose(posterior_mean(points, truth, seed=0), truth, atol=0.02)
    np.testing.assert_array_equal(posterior_mean(points, np.full(40, 7.0), seed=0), 7.0)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("locor", {}),
        ("locor", {"basis": "polynomial"}),
        ("locor", {"basis": "polynomial", "derivative": False}),
        ("instance", {"similarity": "srwcr"}),
        ("instance", {"similarity": "mind-ssc"}),
        ("instance", {"similarity": "mi"}),
        ("niftyreg", {"similarity": "nmi"}),
        ("niftyreg", {"similarity": "mind"}),
        ("syn", {"preset": "locor"}),
        ("syn", {"preset": "cao"}),
        ("corrfield", {}),
        ("corrfield", {"preset": "original"}),
        ("corrfield", {"preset": "small"}),
    ],
)
def test_the_ends_of_every_published_range_are_options_of_the_method(method, options):
    kind = method_class(method)
    resolved = kind(options).options.model_dump()
    found = ranges_of(method, resolved)
    assert found
    for name, searched in found.items():
        for end in (searched.low, searched.high):
            kind({**options, name: searched.option(end)})
            if searched.multiples:
                assert searched.searched(searched.option(end)) == pytest.approx(end, abs=1)


def test_methods_without_published_ranges_have_none():
    assert [m for m in method_names() if m in ("identity", "affine", "demons") and ranges_of(m, {})] == []


def test_a_range_says_what_is_wrong_with_it():
    with pytest.raises(ConfigError, match=r"runs from low up to high, with low above 0 if log; not 2, 1"):
        Range(2, 1)
    with pytest.raises(ConfigError, match="low above 0 if log"):
        Range(0, 1, log=True)
