"""Settings of trainings: budgets, learning rates, presets."""

import pytest
from pydantic import ValidationError

from modalign.training.options import TrainingOptions


def test_learning_rates():
    def rates(**options) -> list[float]:
        given = TrainingOptions(steps=40, learning_rate=1.0, **options)
        return [given.learning_rate_at(step, 1) for step in (0, 10, 20, 30, 39)]

    assert rates() == [1, 1, 1, 1, 1]
    assert rates(schedule="multistep") == pytest.approx([1, 1, 0.1, 0.01, 0.01])
    assert rates(schedule="linear") == pytest.approx([1, 1, 1, 0.5, 0.05])
    assert rates(schedule="linear", linear_from=0.75) == pytest.approx([1, 1, 1, 1, 0.1])
    assert rates(schedule="polynomial") == pytest.approx([1, 0.75**0.9, 0.5**0.9, 0.25**0.9, 0.025**0.9])
    assert TrainingOptions(epochs=2.5).total_steps(30) == 75


class Presets(TrainingOptions):
    presets = {"paper": {"epochs": 10, "batch": 4}, "small": {"steps": 30, "learning_rate": 1e-3}}
    presets_by_dimension = {3: {"paper": {"steps": 7, "batch": 1}}}
    preset: str = "paper"


@pytest.mark.parametrize(
    ("given", "dimension", "expected"),
    [
        ({}, 2, {"epochs": 10, "steps": None, "batch": 4, "learning_rate": 1e-4}),
        ({}, 3, {"epochs": None, "steps": 7, "batch": 1}),
        ({"preset": "small"}, 3, {"steps": 30, "epochs": None, "batch": 1, "learning_rate": 1e-3}),
        ({"preset": "small", "epochs": 2, "batch": 3}, 2, {"steps": None, "epochs": 2, "batch": 3}),
        ({"epochs": 2}, 3, {"steps": None, "epochs": 2, "batch": 1}),
    ],
)
def test_presets_give_way_to_the_dimension_and_to_what_is_given(given, dimension, expected):
    made = Presets.model_validate(given, context={"dimension": dimension})
    assert {name: getattr(made, name) for name in expected} == expected


@pytest.mark.parametrize("budget", [{}, {"steps": 3, "epochs": 1}])
def test_the_budget_is_given_once(budget):
    with pytest.raises(ValidationError, match="either in steps or in epochs"):
        TrainingOptions(**budget)
