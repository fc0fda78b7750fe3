"""DACA's attention as its papers describe it: gather all samples of all pixels, then attend.

It needs memory for every sample of every pixel, 784 times the image for the papers' window. It serves windows of a few
samples, and to test and to measure :func:`modalign.networks.daca_attention.deformable_window_attention`, which gives
the same.
"""

import torch
from torch import Tensor

from modalign.spatial.warp import identity, sampled_at


def gather_all_attention(query: Tensor, key: Tensor, value: Tensor, field: Tensor, window: int, heads: int) -> Tensor:
    """Attention of pixel p to key and value, interpolated at ``p + field(p) + o`` for all offsets o of the window.

    Arguments and result are those of :func:`modalign.networks.daca_attention.deformable_window_attention`.
    """
    dimension, shape = query.ndim - 2, query.shape[2:]
    along_axis = torch.arange(window, device=query.device) - (window - 1) // 2
    offsets = torch.stack(torch.meshgrid(*[along_axis] * dimension, indexing="ij")).flatten(1).to(field)
    # The samples of a window behind one another along the first axis, so that one call looks all of them up.
    exact = torch.promote_types(field.dtype, torch.float32)
    centres = (identity(shape, field.device, exact) + field).unsqueeze(2)
    positions = (centres + offsets.reshape(1, dimension, -1, *[1] * dimension)).flatten(2, 3)
    samples = sampled_at(torch.cat([key, value], dim=1), positions, padding="zeros")
    keys, values = samples.unflatten(2, (-1, shape[0])).unflatten(1, (2, heads, -1)).unbind(1)
    queries = query.unflatten(1, (heads, -1)).unsqueeze(3)
    logits = (queries * keys).sum(2) * queries.shape[2] ** -0.5
    return (logits.softmax(2).unsqueeze(2) * values).sum(3).flatten(1, 2)
