"""The determinant of the Jacobian of a displacement field, against SimpleITK."""

import numpy as np
import SimpleITK as sitk
from racing import Race
from scenes import smooth_field

from modalign.metrics.field import folding_percent, jacobian_determinant

SHAPE = (96, 96, 96)


def races() -> list[Race]:
    """The determinant and the share of folded voxels; at the border the two differ by definition."""
    field = smooth_field(SHAPE, seed=0, largest_voxels=12.0, sigma=4.0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(field.transpose(3, 2, 1, 0)), isVector=True)

    def ours() -> list[np.ndarray]:
        determinant = jacobian_determinant(field)
        return [determinant, np.array(folding_percent(determinant[inside]))]

    def theirs() -> list[np.ndarray]:
        determinant = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image)).transpose(2, 1, 0)
        return [determinant, np.array(100 * np.mean(determinant[inside] <= 0))]

    inside = (slice(1, -1),) * 3

    def difference(a: list[np.ndarray], b: list[np.ndarray]) -> float:
        return float(max(np.abs(a[0] - b[0])[inside].max(), abs(a[1] - b[1])))

    return [
        Race(
            "Jacobian determinant and folds, 96³",
            "SimpleITK `DisplacementFieldJacobianDeterminant`",
            ours,
            theirs,
            difference,
        )
    ]
