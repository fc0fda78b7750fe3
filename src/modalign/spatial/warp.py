"""Warping by a displacement field with PyTorch, in 2D and 3D, differentiable in the image and in the field."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


def warp(
    image: Tensor,
    field: Tensor,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    padding: Literal["border", "zeros"] = "border",
) -> Tensor:
    """Sample `image` at ``x + field(x)``.

    Agrees with :func:`scipy.ndimage.map_coordinates` of order 1 (or 0) with ``mode="nearest"`` for "border" padding.

    Args:
        image: (B, C, *S) with two or three spatial axes S.
        field: (B, nD, *T) displacements in voxels, array axis order. T may differ from S: voxel x of the field then
            looks at voxel ``x + field(x)`` of the image, as it does on a common grid.
        mode: "bilinear" (trilinear in 3D), or "nearest" for label maps.
        padding: beyond the image, repeat its "border" or take "zeros".

    Returns:
        (B, C, *T), of the image's type; half precision is computed in float32.

    Raises:
        ValueError: image and field don't fit together.
    """
    dimension = image.ndim - 2
    if dimension not in (2, 3) or field.ndim != image.ndim or field.shape[1] != dimension:
        message = f"a field for an image of shape {tuple(image.shape)} has {dimension} components, in as many axes"
        raise ValueError(f"{message}; got shape {tuple(field.shape)}")
    # In half precision, coordinates have no digits left for fractions of a voxel, nor for voxels beyond 256.
    exact = torch.promote_types(field.dtype, torch.float32)
    return sampled_at(image, identity(field.shape[2:], field.device, exact) + field, mode, padding)


def sampled_at(
    image: Tensor,
    positions: Tensor,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    padding: Literal["border", "zeros"] = "border",
) -> Tensor:
    """The values of `image` (B, C, *S) at `positions` (B, nD, *T) in voxels, not in half precision; otherwise as
    :func:`warp`."""
    dimension = image.ndim - 2
    sizes = positions.new_tensor(image.shape[2:]).reshape(1, dimension, *[1] * dimension)
    # grid_sample wants [-1, 1] between the centres of the outermost voxels, last axis first, components last.
    normalised = 2 * positions / (sizes - 1).clamp(min=1) - 1
    sampled = torch.promote_types(image.dtype, torch.float32)
    lookup = normalised.flip(1).movedim(1, -1).to(sampled)
    return functional.grid_sample(image.to(sampled), lookup, mode, padding, align_corners=True).to(image.dtype)


def identity(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The voxel indices of every voxel, (1, nD, *shape); kept for the last few shapes, so don't change it in place."""
    return _identity(tuple(shape), device, dtype)


@lru_cache(maxsize=4)
def _identity(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    # A tensor made in inference mode could not take part in training later.
    with torch.inference_mode(False):
        axes = [torch.arange(n, device=device, dtype=dtype) for n in shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]
