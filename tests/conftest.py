"""What the tests share: few threads, the folder of real scans, small volumes."""

import gc
import os
from pathlib import Path

from modalign.preloaded import JOB_ENVIRONMENT

# One thread each, as jobs have it; where `make test` runs a launcher, the commands that tests start can then be forks.
for _variable, _value in JOB_ENVIRONMENT.items():
    os.environ.setdefault(_variable, _value)

# Tests start the command line as a program of its own.
os.environ["PYTHONPATH"] = str(Path(__file__).parents[1] / "src")

import numpy as np
import pytest

from modalign.volumes import Grid


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: then the workers have short ones to share at the end, and none makes what another one has."""
    items.sort(key=lambda item: not any(item.iter_markers("workflow")) and not any(item.iter_markers("real")))


def pytest_collection_finish() -> None:
    """What is there by now stays: nobody has to look for garbage in it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def real_scans() -> Path:
    """The folder of real scans, or a skip that says how to have them."""
    folder = os.environ.get("MODALIGN_REAL_SCANS")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set MODALIGN_REAL_SCANS to the folder of real scans")
    return Path(folder)


@pytest.fixture
def oblique_grid() -> Grid:
    """A grid that no axis-order or spacing error survives: rotated, anisotropic, off-centre."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, 20, -15], degrees=True).as_matrix() * [1.0, 1.5, 2.5]
    affine[:3, 3] = [5, -30, 7]
    return Grid((40, 36, 20), affine)
