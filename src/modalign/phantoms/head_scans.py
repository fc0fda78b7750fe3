"""Scanning a phantom head twice: how subjects differ, how a head moves between scans, what the scanners record."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.ndimage as ndi

from modalign.phantoms.anatomy import Anatomy
from modalign.phantoms.ct import hu_table
from modalign.phantoms.head import HEAD_BOX
from modalign.phantoms.motion import Motion, random_motion, rigid_about
from modalign.phantoms.mr import acquire_mr
from modalign.phantoms.render import Raster, Texture, rasterise
from modalign.phantoms.shapes import lattice_points, smooth_noise
from modalign.phantoms.tissues import TISSUES
from modalign.volumes import Grid, Volume, axis_aligned

Size = tuple[int, int, int]

_LATTICE_MM = 8.0
_NECK = np.array([0.0, -28.0, -62.0])
"""About where the head nods: between occiput and atlas, mm."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A head to be scanned.

    Attributes:
        anatomy: structures, in the subject's own shape.
        texture: what varies within tissues, the same in all scans of the subject.
    """

    anatomy: Anatomy
    texture: Texture

    def scan(self, grid: Grid, motion: Motion | None = None) -> Raster:
        """The subject on a scanner's grid, as it lies or after `motion`."""
        return rasterise(self.anatomy, grid, to_reference=None if motion is None else motion.inverse)

    def hounsfield(self, raster: Raster) -> np.ndarray:
        """Noise-free CT numbers (X, Y, Z), HU, with texture."""
        amplitude = {n: t.texture * (110 + 0.5 * max(t.hu - 100, 0)) for n, t in TISSUES.items()}
        return raster.image(hu_table(), Texture(self.texture.noise, amplitude)).clip(-1024, 3071)

    def signal(self, raster: Raster, values: Mapping[str, float]) -> np.ndarray:
        """The noise-free MR signal (X, Y, Z), with texture; metal leaves a void larger than itself."""
        amplitude = {name: values[name] * tissue.texture for name, tissue in TISSUES.items()}
        image = raster.image(values, Texture(self.texture.noise, amplitude)).clip(min=0)
        if "metal" in raster.anatomy.tissues:
            image *= np.exp(-8 * ndi.gaussian_filter(raster.fraction("metal"), 4.0 / raster.grid.spacing))
        return image

    def mr(
        self,
        raster: Raster,
        values: Mapping[str, float],
        rng: np.random.Generator,
        *,
        snr: float,
        bias: float,
        ghosting: float = 0.0,
    ) -> np.ndarray:
        """A stored MR image (X, Y, Z), int16: the signal through a scanner, in its arbitrary units."""
        image = acquire_mr(self.signal(raster, values), rng, snr=snr, bias=bias, ghosting=ghosting)
        top = max(float(np.percentile(image, 99.5)), 1e-6)
        return np.rint(image * (rng.uniform(600, 1400) / top)).clip(0, 32767).astype(np.int16)


def draw_subject(anatomy: Anatomy, rng: np.random.Generator) -> Subject:
    """Give an average head a shape and a texture of its own: sizes vary by some percent, outlines by millimetres."""
    bend = random_motion(
        rng, HEAD_BOX, rotation_deg=2.0, translation_mm=0.0, deformation_mm=2.5, smoothness_mm=30.0, step=_LATTICE_MM
    )
    scale = np.diag([*(1 / rng.normal([0.99, 0.99, 0.99], 0.02)).clip(0.94, 1.06), 1.0])
    coarse, fine = smooth_noise(rng, 18.0), smooth_noise(rng, 3.5, nodes=64)
    texture = Texture(lambda points: 0.6 * coarse(points) + 0.8 * fine(points), {})
    shape = Motion(scale @ bend.rigid, bend.displacement, bend.origin, bend.step)
    return Subject(replace(anatomy, to_template=lambda points: shape.forward(points).astype(np.float32)), texture)


def head_motion(
    rng: np.random.Generator,
    *,
    rotation_deg: float,
    translation_mm: float,
    flexion_deg: float = 0.0,
    distortion_mm: float = 0.4,
    soft_tissue_mm: float = 1.0,
) -> Motion:
    """Draw how a head moved between two scans: rigid above, bent and deformed below the skull base.

    Args:
        rng: the source of randomness.
        rotation_deg: standard deviation of the rotation about each axis.
        translation_mm: standard deviation of the shift along each axis.
        flexion_deg: standard deviation of how much more the neck bends than the head, about the left-right axis.
        distortion_mm: mean length of the smooth displacement within the skull: the MR scanner's gradient distortion.
        soft_tissue_mm: mean length of the smooth displacement of the soft tissue below the skull.
    """
    # Uniform rather than normal: a head in its holder never lies very far off.
    turn, shift, nod = np.sqrt(3) * rng.uniform(-1, 1, 3), np.sqrt(3) * rng.uniform(-1, 1, 3), rng.uniform(-1, 1)
    rigid = rigid_about(_NECK, rotation_deg * turn, translation_mm * shift)
    distortion = random_motion(
        rng,
        HEAD_BOX,
        deformation_mm=distortion_mm,
        smoothness_mm=45.0,
        rotation_deg=0.0,
        translation_mm=0.0,
        step=_LATTICE_MM,
    )
    soft = random_motion(
        rng,
        HEAD_BOX,
        deformation_mm=soft_tissue_mm,
        smoothness_mm=25.0,
        rotation_deg=0.0,
        translation_mm=0.0,
        step=_LATTICE_MM,
    )
    low = distortion.origin
    high = low + (np.array(distortion.displacement.shape[1:]) - 1) * _LATTICE_MM
    nodes = lattice_points(np.stack([low, high]), _LATTICE_MM).astype(float)
    # From the skull base down to the middle of the neck, the head's motion turns into the neck's.
    below = ((_NECK[2] + 20 - nodes[2]) / 80).clip(0, 1)
    below = below**2 * (3 - 2 * below)
    angle = np.deg2rad(np.sqrt(3) * flexion_deg * nod) * below
    y, z = nodes[1] - _NECK[1], nodes[2] - _NECK[2]
    bent = np.stack(
        [np.zeros_like(y), y * (np.cos(angle) - 1) - z * np.sin(angle), y * np.sin(angle) + z * (np.cos(angle) - 1)]
    )
    total = distortion.displacement + below * soft.displacement + bent
    return Motion(rigid, total.astype(np.float32), low, _LATTICE_MM)


def covering(size: Size, field_mm: tuple[float, float, float], middle: tuple[float, float, float]) -> Grid:
    """A grid of `size` voxels along R, A, S over `field_mm` around `middle` (RAS mm)."""
    grid = axis_aligned(size, np.divide(field_mm, size).tolist())
    affine = grid.affine.copy()
    affine[:3, 3] += middle
    return Grid(grid.shape, affine)


def scaled_size(size: Size, nominal: Size, other: Size) -> Size:
    """The size of a second scan (nominally `other` voxels) beside a first one of `size` (nominally `nominal`)."""
    x, y, z = (max(8, round(o * s / n)) for s, n, o in zip(size, nominal, other, strict=True))
    return x, y, z


def stored_along(volume: Volume, orientation: str) -> Volume:
    """The same image with its array axes flipped and swapped to an orientation such as ``PSR``."""
    import nibabel as nib

    image = nib.Nifti1Image(volume.data, volume.affine, dtype=volume.data.dtype)
    turn = nib.orientations.ornt_transform(
        nib.io_orientation(volume.affine), nib.orientations.axcodes2ornt(orientation)
    )
    turned = image.as_reoriented(turn)
    return Volume(np.ascontiguousarray(turned.dataobj), turned.affine)
