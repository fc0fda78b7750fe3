"""Rigid pre-registration does not follow mutual information where two scans of one patient can't lie."""

import json
import re

import numpy as np
import pytest
from analytic_pairs import SHAPE, SPACING, pair
from scipy.spatial.transform import Rotation

from modalign.errors import ConfigError
from modalign.preprocess import maps, truth
from modalign.preprocess.context import StepContext
from modalign.preprocess.overrides import resolve
from modalign.preprocess.prepare import apply_steps
from modalign.preprocess.steps.registration import implausible
from modalign.volumes import axis_aligned


def moved(shift=(0, 0, 0), turn_deg=0.0, scale=1.0) -> np.ndarray:
    """A map of world coordinates: turned about z, scaled, shifted by mm."""
    matrix = np.eye(4)
    matrix[:3, :3] = scale * Rotation.from_euler("z", turn_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift
    return matrix


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        (np.eye(4), ""),
        (moved(shift=(30, 0, 0)), ""),
        (moved(shift=(60, 40, 0)), r"overlap \d+% instead of 100%"),
        (moved(turn_deg=50), ""),
        (moved(turn_deg=70), "turned by 70 degrees"),
        (moved(scale=0.7), "volumes changed by a factor of 0.34"),
        (moved(scale=-1.0), "volumes changed by a factor of -1"),
    ],
)
def test_how_two_scans_of_one_patient_cannot_lie(matrix, reason):
    grid = axis_aligned((50, 50, 50), (2, 2, 2))
    assert re.fullmatch(reason, implausible(matrix, grid, grid, 0.5, 60.0))


def test_scans_without_overlap_have_no_mutual_information_on_record():
    case = pair(axis_aligned((20, 20, 20), (2, 2, 2)), axis_aligned((20, 20, 20), (2, 2, 2)))
    apart = truth.move_frame(case, moved(shift=(39.6, 0, 0)))
    context = StepContext(dataset="analytic", fixed="mr", moving="mr", seed=3)
    steps = [{"name": "rigid", "function": "register", "parameters": {}}]
    outcome = apply_steps(apart, steps, context).record["steps"][-1]["outcome"]
    assert outcome["mutual_information_before"] is None
    json.dumps(outcome, allow_nan=False)


def test_an_affine_registration_needs_the_moving_scan_on_the_fixed_grid():
    affine = {"rigid": True, "rigid.transform": "affine"}
    with pytest.raises(ConfigError, match=r"after rigid.transform: affine the moving scan has to be resampled"):
        resolve("locor-cermep", affine)
    with pytest.raises(ConfigError, match="by the step one_grid"):
        resolve("own-pairs", {"rigid.transform": "affine", "one_grid": False})
    assert resolve("own-pairs", {"rigid.transform": "affine"})


def test_a_registration_that_runs_away_leaves_the_scans_and_says_so(caplog):
    """Nothing that turns by more than a hundredth of a degree is allowed here, so that what is found is refused."""
    still = pair(axis_aligned(SHAPE, SPACING), axis_aligned((50, 46, 40), (1.8, 1.8, 1.9)))
    turn = maps.similarity_about_centre(still.grid, np.array([5, -8, 12]), np.array([9, -7, 4]))
    case = truth.move_frame(still, turn)
    context = StepContext(dataset="analytic", fixed="mr", moving="mr", seed=3)
    outcomes = []
    for largest in (60.0, 0.01):
        steps = [{"name": "rigid", "function": "register", "parameters": {"largest_turn_deg": largest}}]
        prepared = apply_steps(case, steps, context)
        outcomes.append(prepared.record["steps"][-1]["outcome"])
    assert outcomes[0]["refused"] == ""
    assert "turned by" in outcomes[1]["refused"]
    assert outcomes[1]["matrix"] == np.eye(4).tolist()
    assert np.array_equal(prepared.moving.affine, case.moving.affine)
    assert "the scans stay as they lie" in caplog.text
