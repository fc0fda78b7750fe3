"""Image pyramids on the grids that :func:`modalign.spatial.integrate.resize_field` resamples fields to."""

from torch import Tensor
from torch.nn import functional


def halved(images: Tensor) -> Tensor:
    """Images at half the resolution: averaged over 3 voxels along each axis, then sampled linearly.

    The centres of the corner voxels stay where they are, as they do for fields. Pooling with a stride would shift the
    image against the field by up to a voxel from one corner to the other.

    Args:
        images: (B, C, *S).

    Returns:
        (B, C, *ceil(S / 2)), but no axis of two voxels or more is halved to less than two.
    """
    dimension = images.ndim - 2
    pool, mode = {2: (functional.avg_pool2d, "bilinear"), 3: (functional.avg_pool3d, "trilinear")}[dimension]
    smooth = pool(functional.pad(images, [1, 1] * dimension, mode="replicate"), 3, stride=1)
    shape = [min(n, max(-(-n // 2), 2)) for n in images.shape[2:]]
    return functional.interpolate(smooth, shape, mode=mode, align_corners=True)
