"""Learning to synthesise from misaligned pairs: random rigid motion, rigidity, and the losses of Honkamaa et al. 2023.

The synthesis F sees the fixed image x, and the moving image y doesn't lie on it. A registration moves y towards F(x); a
second one moves F(x) towards what was reached, so that F need not explain what is still misaligned. What keeps F from
learning to move things itself is equivariance: F of a moved image has to be the moved F.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.similarity.filters import at_least_float32
from modalign.spatial.integrate import integrate
from modalign.spatial.warp import identity, warp


@dataclass(frozen=True)
class Motion:
    """Rigid motions ``x -> M (x - c) + c + t`` of a batch, in voxels: `matrix` (B, nD, nD), `shift` (B, nD).

    Positions are computed in float32 also under mixed precision: half precision rounds them to a voxel or so.
    """

    matrix: Tensor
    shift: Tensor

    def field(self, shape: Sequence[int]) -> Tensor:
        """The displacement (B, nD, *shape) in voxels, about the centre of the grid."""
        centred = self._centred(shape)
        with torch.autocast(centred.device.type, enabled=False):
            moved = torch.einsum("bij,j...->bi...", self.matrix, centred)
        return moved + self.shift.reshape(*self.shift.shape, *[1] * len(shape)) - centred

    def undone(self, displacement: Tensor) -> Tensor:
        """The displacement that goes along `displacement` (B, nD, *S) first, and then the motion backwards."""
        shape = displacement.shape[2:]
        centred = self._centred(shape)
        reached = centred + displacement - self.shift.reshape(*self.shift.shape, *[1] * len(shape))
        with torch.autocast(centred.device.type, enabled=False):
            return torch.einsum("bij,bj...->bi...", torch.linalg.inv(self.matrix), reached) - centred

    def _centred(self, shape: Sequence[int]) -> Tensor:
        middle = torch.tensor([(n - 1) / 2 for n in shape]).to(self.matrix)
        return identity(shape, self.matrix.device, self.matrix.dtype)[0] - middle.reshape(-1, *[1] * len(shape))


def random_motion(
    batch: int,
    spacing_mm: Sequence[float],
    rotation_deg: float,
    shift_voxels: float,
    rng: np.random.Generator,
    like: Tensor | None = None,
) -> Motion:
    """Rotations about every axis (2D: the one across) and shifts, uniform within plus and minus the given limits.

    `like` is a tensor whose device they go to.
    """
    from scipy.spatial.transform import Rotation

    dimension = len(spacing_mm)
    angles = rng.uniform(-rotation_deg, rotation_deg, (batch, 1 if dimension == 2 else 3))
    turned = Rotation.from_euler("z" if dimension == 2 else "xyz", angles, degrees=True)
    spacing = np.array(spacing_mm)
    matrix = turned.as_matrix()[:, :dimension, :dimension] * spacing / spacing[:, None]
    shift = rng.uniform(-shift_voxels, shift_voxels, (batch, dimension))
    device = None if like is None else like.device
    return Motion(*(torch.tensor(values, dtype=torch.float32, device=device) for values in (matrix, shift)))


def rigidity_penalty(field: Tensor, spacing_mm: Sequence[float]) -> Tensor:
    """How far a deformation is from being rigid everywhere (Staring et al. 2007), with Honkamaa's weights.

    1 x bending energy (squared second derivatives in 1/mm, mixed ones twice), 0.1 x (|J| - 1)^2, and 0.01 x the squared
    Frobenius norm of ``J J^T - I``, each averaged over the grid; forward differences. In float32 also under mixed
    precision.

    Args:
        field: (B, nD, *S) in voxels, array axis order.
        spacing_mm: voxel size along each axis.

    Returns:
        A scalar, 0 for rigid motions.
    """
    field, dimension = at_least_float32(field), field.shape[1]
    spacing = field.new_tensor(spacing_mm).reshape(1, -1, *[1] * dimension)
    rows = [_difference(field * spacing, axis) / spacing_mm[axis] for axis in range(dimension)]
    slopes = torch.stack([_shortened(row, axis) for axis, row in enumerate(rows)], dim=2)
    jacobian = slopes.movedim((1, 2), (-2, -1)) + torch.eye(dimension).to(field)
    # What is penalised is the small difference from the identity.
    with torch.autocast(field.device.type, enabled=False):
        product = jacobian @ jacobian.transpose(-1, -2) - torch.eye(dimension).to(field)
    volume = torch.linalg.det(jacobian)
    bending = field.new_zeros(())
    for first in range(dimension):
        for second in range(first, dimension):
            curvature = _difference(rows[first], second) / spacing_mm[second]
            bending = bending + (1 if first == second else 2) * curvature.square().sum(1).mean()
    return bending + 0.1 * (volume - 1).square().mean() + 0.01 * product.square().sum((-2, -1)).mean()


def _difference(values: Tensor, axis: int) -> Tensor:
    return values.diff(dim=axis + 2)


def _shortened(values: Tensor, but: int) -> Tensor:
    """Without the last sample of every axis but one, so that differences along different axes fit together."""
    cuts = [slice(None) if axis == but else slice(-1) for axis in range(values.ndim - 2)]
    return values[(slice(None), slice(None), *cuts)]


@dataclass(frozen=True)
class Weights:
    """Of the terms of :func:`synthesis_terms`; that of the similarities is 1."""

    equivariance: float = 1.0
    rigidity: float = 0.25
    adversarial: float = 0.01


@dataclass(frozen=True)
class Views:
    """What one pass of the networks gives for a batch.

    Attributes:
        synthesised: F(x).
        of_moved: F of x moved at random.
        motion_field: the random motion as a displacement.
        registered: y moved towards F(x), and `registered_valid` where it comes from inside the scan.
        forward: displacement of that registration, and `backward` its inverse.
        forth: displacement of the second registration, and `back` its inverse.
        condition: x moved at random, for the discriminator.
        real: the registered y, moved likewise.
        fake: F of the moved x, deformed to the registered y.
        judged: where both can be compared.
    """

    synthesised: Tensor
    of_moved: Tensor
    motion_field: Tensor
    registered: Tensor
    registered_valid: Tensor
    forward: Tensor
    backward: Tensor
    forth: Tensor
    back: Tensor
    condition: Tensor
    real: Tensor
    fake: Tensor
    judged: Tensor


def look(
    networks: Mapping[str, nn.Module], x: Tensor, y: Tensor, valid: Tensor, motion: Motion, int_steps: int = 7
) -> Views:
    """Run synthesis and both registrations on a batch.

    Args:
        networks: ``generator``, ``cross`` and ``intra``.
        x: (B, 1, *S), the images to translate.
        y: (B, 1, *S), the misaligned images of the other contrast.
        valid: (B, 1, *S), 1 where `y` lies inside its scan.
        motion: random rigid motions.
        int_steps: squarings of the velocities' integration.
    """
    shape, everywhere = x.shape[2:], torch.ones_like(x)
    motion_field = motion.field(shape)
    condition = warp(x, motion_field)
    synthesised, of_moved = networks["generator"](torch.cat([x, condition])).chunk(2)
    velocity = networks["cross"](y, valid, x, everywhere)
    forward, backward = integrate(velocity, int_steps), integrate(-velocity, int_steps)
    registered = warp(y, forward)
    registered_valid = (warp(valid, forward.detach(), padding="zeros") > 0.99).to(x)
    remaining = networks["intra"](backward.detach(), registered.detach(), registered_valid, synthesised, everywhere)
    forth, back = integrate(remaining, int_steps), integrate(-remaining, int_steps)
    # From the moved grid to the unmoved one, along the second registration, and to the moved F(x).
    there = motion_field + warp(back, motion_field)
    return Views(
        synthesised=synthesised,
        of_moved=of_moved,
        motion_field=motion_field,
        registered=registered,
        registered_valid=registered_valid,
        forward=forward,
        backward=backward,
        forth=forth,
        back=back,
        condition=condition,
        real=warp(registered, motion_field),
        fake=warp(of_moved, motion.undone(there)),
        judged=(warp(registered_valid, motion_field, padding="zeros") > 0.99).to(x),
    )


def discriminator_terms(discriminator: nn.Module, seen: Views) -> dict[str, Tensor]:
    """What the discriminator descends: cross-entropy on real and on synthesised images."""
    real = discriminator(seen.condition, seen.real.detach() * seen.judged)
    fake = discriminator(seen.condition, seen.fake.detach() * seen.judged)
    return {
        "real": functional.binary_cross_entropy_with_logits(real, torch.ones_like(real)),
        "fake": functional.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)),
    }


def synthesis_terms(
    discriminator: nn.Module | None, seen: Views, spacing_mm: Sequence[float], weights: Weights
) -> dict[str, Tensor]:
    """What synthesis and registrations descend together; without a discriminator, nothing judges."""
    inside = (warp(torch.ones_like(seen.judged), seen.motion_field, padding="zeros") > 0.99).to(seen.judged)
    moved = warp(seen.synthesised, seen.motion_field)
    terms = {
        "cross": mean_absolute(seen.registered, seen.synthesised.detach(), seen.registered_valid),
        "intra": mean_absolute(warp(seen.synthesised, seen.back), seen.registered.detach(), seen.registered_valid),
        "equivariance": weights.equivariance * mean_absolute(seen.of_moved, moved, inside),
    }
    whole = seen.forth + warp(seen.forward.detach(), seen.forth)
    whole_back = seen.backward.detach() + warp(seen.back, seen.backward.detach())
    fields = (seen.forward, whole, seen.backward, whole_back)
    terms["rigidity"] = weights.rigidity / 2 * torch.stack([rigidity_penalty(f, spacing_mm) for f in fields]).sum()
    if discriminator is not None:
        judged = discriminator(seen.condition, seen.fake * seen.judged)
        loss = functional.binary_cross_entropy_with_logits(judged, torch.ones_like(judged))
        terms["adversarial"] = weights.adversarial * loss
    return terms


def mean_absolute(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference where the mask is 1; 0 where it is nowhere."""
    return ((a - b).abs() * mask).sum() / mask.sum().clamp(min=1)
