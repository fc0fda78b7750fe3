"""Images in space: an array, and where its voxels lie in millimetres."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from modalign.errors import DataError
from modalign.files import replacing

if TYPE_CHECKING:
    import SimpleITK

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NIFTI_SUFFIXES = (".nii", ".nii.gz")
ITK_SUFFIXES = (".nrrd", ".mha", ".mhd", ".nhdr")


@dataclass(frozen=True, eq=False)
class Grid:
    """A sampling grid: `shape` (X, Y, Z) voxels and the `affine` from voxel indices to RAS millimetres (4 x 4)."""

    shape: tuple[int, int, int]
    affine: np.ndarray

    @cached_property
    def spacing(self) -> np.ndarray:
        """Voxel size in mm along each array axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @cached_property
    def direction(self) -> np.ndarray:
        """Unit vectors of the array axes in RAS, as columns (3 x 3)."""
        return self.affine[:3, :3] / self.spacing

    @property
    def orientation(self) -> str:
        """The anatomical directions in which the array axes grow, such as ``RAS``."""
        return "".join(nib.aff2axcodes(self.affine))

    def indices(self) -> np.ndarray:
        """The voxel indices of every voxel, (3, X, Y, Z), float64."""
        return np.stack(np.meshgrid(*map(np.arange, self.shape), indexing="ij")).astype(float)

    def same_as(self, other: "Grid", tolerance_mm: float = 1e-3) -> bool:
        """Whether both grids have the same shape, and their corners lie within `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij")).reshape(3, -1)
        distance = apply_affine(self.affine, corners) - apply_affine(other.affine, corners)
        return bool(np.abs(distance).max() < tolerance_mm)


def apply_affine(affine: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Map `points` (3, ...) by a 4 x 4 affine."""
    return np.tensordot(affine[:3, :3], points, axes=1) + affine[:3, 3].reshape(3, *[1] * (points.ndim - 1))


@dataclass(eq=False)
class Volume:
    """A scalar image or label map: `data` (X, Y, Z) on the grid given by `affine` (voxel indices to RAS mm)."""

    data: np.ndarray
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))

    def __post_init__(self) -> None:
        if self.data.ndim != 3:
            raise ValueError(f"a volume has 3 axes, not {self.data.ndim}: shape {self.data.shape}")
        self.affine = np.asarray(self.affine, dtype=float)

    @property
    def grid(self) -> Grid:
        """The sampling grid."""
        return Grid(tuple(self.data.shape), self.affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return tuple(self.data.shape)

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size in mm along each axis."""
        return self.grid.spacing

    def like(self, data: np.ndarray) -> "Volume":
        """Other values on the same grid."""
        if data.shape != self.data.shape:
            raise ValueError(f"expected shape {self.data.shape}, got {data.shape}")
        return Volume(data, self.affine.copy())

    def canonical(self) -> "Volume":
        """The same image with axes flipped and swapped (no interpolation) so that they run closest to R, A, S."""
        image = nib.as_closest_canonical(nib.Nifti1Image(self.data, self.affine, dtype=self.data.dtype))
        return Volume(np.asanyarray(image.dataobj), image.affine)


def read_volume(path: Path | str) -> Volume:
    """Read a 3D scan from NIfTI, NRRD or MetaImage.

    Integers keep their type unless the file carries a scale factor; floats come as float32.

    Raises:
        DataError: the file is missing, unreadable or not three-dimensional, or its affine is none that a scan can have.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist")
    try:
        volume = _read_nifti(path) if path.name.endswith(NIFTI_SUFFIXES) else _read_itk(path)
    except DataError:
        raise
    except Exception as error:
        message = f"{path} can't be read ({error}). Fetch or export it again; NIfTI, NRRD and MetaImage are understood."
        raise DataError(message) from error
    if volume.data.dtype.kind == "f":
        volume.data = volume.data.astype(np.float32)
    return volume


def _read_nifti(path: Path) -> Volume:
    return from_nibabel(nib.load(path), str(path))


def from_nibabel(image: Any, name: str = "the image") -> Volume:
    """A nibabel image as a volume.

    Raises:
        DataError: it isn't a single 3D image, or its affine is none that a scan can have.
    """
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        advice = "give it a third axis of one voxel" if len(shape) == 2 else "save one volume per file"
        raise DataError(f"{name} has shape {image.shape}: a single 3D volume is needed, {advice}")
    # A copy, so that overwriting the file can't change an array that is in use.
    stored = image.get_data_dtype()
    if stored.kind not in "biuf":
        raise DataError(f"{name} holds {stored} values: one number per voxel is needed, save a grey-scale image")
    if 0 in shape:
        raise DataError(f"{name} has shape {shape}: there is no voxel in it")
    data = np.array(image.dataobj).reshape(shape)
    if data.dtype.byteorder == ">":
        data = data.astype(data.dtype.newbyteorder("="))
    return _sound(Volume(data, image.affine), name)


def _read_itk(path: Path) -> Volume:
    import SimpleITK as sitk

    return from_sitk(sitk.ReadImage(str(path)), str(path))


LARGEST_SHEAR = 1e-3
"""Cosine of the angle between two axes up to which it is taken for rounding: 0.06 degrees, 0.3 mm over a head."""


def _sound(volume: Volume, name: str) -> Volume:
    """The volume, if its affine is one that a scan can have.

    Raises:
        DataError: it isn't.
    """
    linear = volume.affine[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    advice = "correct its header or convert it again from DICOM"
    if not np.isfinite(volume.affine).all():
        what = "an affine with NaN or infinite numbers"
    elif (spacing <= 0).any():
        what = "a voxel size of 0 mm"
    elif abs(np.linalg.det(linear / spacing)) < 1e-3:
        what = "a singular affine, its axes lie in one plane"
    elif (shear := np.abs(np.triu((linear / spacing).T @ (linear / spacing), 1)).max()) > LARGEST_SHEAR:
        what = f"axes that aren't at right angles, two of them are {np.degrees(np.arccos(shear)):.1f} degrees apart"
        advice = "resample it to a grid without shear, or set sform_code to 0 if its qform says where the scan lies"
    else:
        return volume
    raise DataError(f"{name} has {what}: {advice}")


def write_volume(path: Path | str, volume: Volume) -> None:
    """Write a NIfTI file with matching sform and qform; booleans become uint8, float64 becomes float32."""
    image = to_nibabel(volume)
    with replacing(path) as temporary:
        nib.save(image, temporary)


def to_nibabel(volume: Volume) -> nib.Nifti1Image:
    """The same image as NIfTI with matching sform and qform; booleans become uint8, float64 becomes float32."""
    data = volume.data
    if data.dtype == bool:
        data = data.astype(np.uint8)
    if data.dtype == np.float64:
        data = data.astype(np.float32)
    if data.dtype in (np.int64, np.uint64):
        data = data.astype(np.int32)
    image = nib.Nifti1Image(data, volume.affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(volume.affine, code=1)
    image.set_qform(volume.affine, code=1)
    return image


def to_sitk(volume: Volume) -> "SimpleITK.Image":
    """The same image as a SimpleITK image (whose physical space is LPS mm)."""
    import SimpleITK as sitk

    data = volume.data.astype(np.uint8) if volume.data.dtype == bool else volume.data
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.transpose(2, 1, 0)))
    set_sitk_grid(image, volume.grid)
    return image


def set_sitk_grid(image: "SimpleITK.Image", grid: Grid) -> None:
    """Give a SimpleITK image the origin, spacing and direction of `grid`."""
    affine = LPS_TO_RAS @ grid.affine
    image.SetSpacing(grid.spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / grid.spacing).ravel().tolist())


def from_sitk(image: "SimpleITK.Image", name: str = "the image") -> Volume:
    """A SimpleITK image as a volume.

    Raises:
        DataError: it isn't a single 3D image, or its axes aren't at right angles.
    """
    import SimpleITK as sitk

    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        size, components = image.GetSize(), image.GetNumberOfComponentsPerPixel()
        raise DataError(
            f"{name} has size {size} with {components} values a voxel: a single 3D volume of numbers is needed"
        )
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return _sound(Volume(sitk.GetArrayFromImage(image).transpose(2, 1, 0).copy(), LPS_TO_RAS @ affine), name)


def axis_aligned(shape: Sequence[int], spacing: Sequence[float]) -> Grid:
    """A grid along R, A, S whose centre is the origin."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -np.asarray(spacing) * (np.asarray(shape) - 1) / 2
    x, y, z = shape
    return Grid((x, y, z), affine)
