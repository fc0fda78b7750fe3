"""DACA's attention as its papers describe it: gather all samples of all pixels, then attend.

It needs memory for every sample of every pixel, 784 times the image for the papers' window. It serves windows of a few
samples, and to test and to measure :func:`modalign.networks.daca_attention.deformable_window_attention`, which gives
the same.
"""

import torch
from torch import Tensor

from modalign.spatial.warp import warp


def gather_all_attention(query: Tensor, key: Tensor, value: Tensor, field: Tensor, window: int, heads: int) -> Tensor:
    """Attention of pixel p to key and value, interpolated at ``p + field(p) + o`` for all offsets o of the window.

    Arguments and result are those of :func:`modalign.networks.daca_attention.deformable_window_attention`.
    """
    dimension = query.ndim - 2
    along_axis = torch.arange(window, device=query.device) - (window - 1) // 2
    offsets = torch.stack(torch.meshgrid(*[along_axis] * dimension, indexing="ij")).flatten(1).to(field)
    samples = torch.cat([key, value], dim=1)
    sampled = torch.stack(
        [warp(samples, field + offset.reshape(1, -1, *[1] * dimension), padding="zeros") for offset in offsets.T]
    )
    keys, values = sampled.unflatten(2, (2, heads, -1)).unbind(2)
    queries = query.unflatten(1, (heads, -1))
    logits = (queries * keys).sum(3) * queries.shape[2] ** -0.5
    return (logits.softmax(0).unsqueeze(3) * values).sum(0).flatten(1, 2)
