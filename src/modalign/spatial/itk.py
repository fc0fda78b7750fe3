"""SimpleITK images and transforms for volumes and for single slices, and the fields of its transforms.

SimpleITK works on 2D images when a volume is one slice thick. Such a slice is placed in a frame of its own, with the
spacing of the array axes, origin 0 and no rotation; the caller makes sure that both images share their grid.
"""

from typing import TYPE_CHECKING

import numpy as np

from modalign.spatial.fields import field_from_mm, field_to_mm
from modalign.volumes import Grid, Volume, set_sitk_grid, to_sitk

if TYPE_CHECKING:
    import SimpleITK


def own_frame(data: np.ndarray, spacing: np.ndarray) -> "SimpleITK.Image":
    """An array (X, Y, Z), or (X, Y, 1) as 2D, as an image with `spacing` in mm, origin 0 and no rotation."""
    import SimpleITK as sitk

    data = data[:, :, 0] if data.shape[2] == 1 else data
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(spacing[: data.ndim].tolist())
    return image


def to_sitk_2d_or_3d(volume: Volume, dimension: int) -> "SimpleITK.Image":
    """The image as float32 in LPS mm (3D), or in the slice's own frame (2D)."""
    floats = volume.like(volume.data.astype(np.float32))
    return to_sitk(floats) if dimension == 3 else own_frame(floats.data, volume.spacing)


def to_sitk_field(field: np.ndarray, grid: Grid) -> "SimpleITK.Image":
    """A field (3, X, Y, Z) in voxels of `grid` as a SimpleITK image of float64 vectors in LPS mm."""
    import SimpleITK as sitk

    vectors = field_to_mm(field.astype(np.float64), grid) * np.array([-1.0, -1.0, 1.0]).reshape(3, 1, 1, 1)
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors.transpose(3, 2, 1, 0)), isVector=True)
    set_sitk_grid(image, grid)
    return image


def vectors_to_field(image: "SimpleITK.Image", grid: Grid) -> np.ndarray:
    """A 2D or 3D vector image in the own frame of `grid` (mm along the array axes) as a field in voxels."""
    import SimpleITK as sitk

    vectors = np.moveaxis(sitk.GetArrayFromImage(image), -1, 0)
    vectors = vectors.transpose(0, *range(vectors.ndim - 1, 0, -1))
    field = np.zeros((3, *grid.shape), np.float32)
    for axis, component in enumerate(vectors):
        field[axis] = component.reshape(grid.shape) / grid.spacing[axis]
    return field


def transform_to_field(transform: "SimpleITK.Transform", reference: "SimpleITK.Image", grid: Grid) -> np.ndarray:
    """The field, in voxels of `grid`, of a transform that maps fixed points to moving points.

    Args:
        transform: 3D in LPS mm, or 2D in the slice's own frame.
        reference: the fixed image the transform was made for.
        grid: the fixed grid of `reference`.
    """
    import SimpleITK as sitk

    displacement = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat64,
        reference.GetSize(),
        reference.GetOrigin(),
        reference.GetSpacing(),
        reference.GetDirection(),
    )
    if transform.GetDimension() == 2:
        return vectors_to_field(displacement, grid)
    vectors = sitk.GetArrayFromImage(displacement).transpose(3, 2, 1, 0)
    ras = vectors * np.array([-1.0, -1.0, 1.0]).reshape(3, 1, 1, 1)
    return field_from_mm(ras, grid).astype(np.float32)
