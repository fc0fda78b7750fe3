"""No alignment at all: the moving image as it lies. What every other method has to beat."""

import numpy as np

from modalign.cases import Alignment, Case
from modalign.methods._registration import by_field
from modalign.methods.base import Method


class Identity(Method):
    """The moving image resampled on the fixed grid, with a field of zeros."""

    label = "Before alignment"
    kind = "identity"
    dimensions = frozenset({2, 3})
    source = "none: world coordinates as the scanners give them"

    def align(self, case: Case) -> Alignment:
        """Resample the moving image linearly on the fixed grid."""
        return by_field(case, np.zeros((3, *case.grid.shape), np.float32))
