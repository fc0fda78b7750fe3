"""Where a registration starts: as the scans lie in world coordinates, or with their centres on top of each other."""

from dataclasses import replace
from typing import Literal

import numpy as np

from modalign.cases import Case
from modalign.spatial.overlap import overlap
from modalign.volumes import Volume

Start = Literal["auto", "world", "centre"]
START = (
    "where to start: as the scans lie in world coordinates, or with their centres on top of each other; auto: world, "
    "unless less than a tenth of the smaller scan's box lies in the other's there"
)
LEAST_OVERLAP = 0.1
"""Share of the smaller scan's box that has to lie in the other's for world coordinates to be trusted (`start: auto`). A
scan of a part of the other's view lies in it entirely, and scans of two sessions by chance alone."""


def start_of(case: Case, start: str) -> tuple[np.ndarray, str]:
    """The affine in world coordinates, fixed to moving, from which to start, and whether it is `world` or `centre`."""
    matrix = np.eye(4)
    if start == "auto":
        start = "world" if overlap(case.fixed.grid, case.moving.grid) >= LEAST_OVERLAP else "centre"
    if start == "centre":
        centres = [(v.affine @ np.append((np.array(v.shape) - 1) / 2, 1))[:3] for v in (case.fixed, case.moving)]
        matrix[:3, 3] = centres[1] - centres[0]
    return matrix, start


def started(case: Case, start: str) -> tuple[Case, np.ndarray, str]:
    """A case whose moving scan lies where a registration starts, for tools that take no start.

    Returns:
        The case; what its field lacks to lead to the moving scan where it was, (3,) in voxels of the fixed grid; and
        whether the start is `world` or `centre`.
    """
    matrix, chosen = start_of(case, start)
    if chosen == "world":
        return case, np.zeros(3), chosen
    back = np.linalg.inv(matrix)
    moving, mask = (
        None if volume is None else Volume(volume.data, back @ volume.affine)
        for volume in (case.moving, case.moving_mask)
    )
    assert moving is not None
    lacking = np.linalg.solve(case.fixed.affine[:3, :3], matrix[:3, 3])
    return replace(case, moving=moving, moving_mask=mask), lacking, chosen
