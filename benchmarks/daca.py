"""DACA's windowed attention, forward and backward, against gathering all samples of all pixels."""

from collections.abc import Callable

import torch
from racing import Race
from scenes import smooth_field
from torch import Tensor

from modalign.networks.daca_attention import deformable_window_attention
from modalign.networks.daca_reference import gather_all_attention


def races() -> list[Race]:
    """The papers' block at full resolution on one crop (gathering four crops takes 11 GB), and a block in 3D."""
    return [_race((96, 96), window=28), _race((24, 24, 24), window=7)]


def _race(shape: tuple[int, ...], window: int, channels: int = 14, heads: int = 2) -> Race:
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(1, channels, *shape, generator=draw).requires_grad_() for _ in range(3)]
    volume = smooth_field((*shape, 1) if len(shape) == 2 else shape, seed=1)
    field = torch.from_numpy(volume[: len(shape)]).reshape(1, len(shape), *shape)

    power = "²" if len(shape) == 2 else "³"
    return Race(
        f"DACA of {window}{power} windows and gradients, {shape[0]}{power}",
        "gather all samples (`grid_sample`), softmax",
        lambda: with_gradients(deformable_window_attention, images, field, window, heads),
        lambda: with_gradients(gather_all_attention, images, field, window, heads),
    )


def with_gradients(
    attention: Callable[..., Tensor], images: list[Tensor], field: Tensor, window: int, heads: int
) -> list[Tensor]:
    """The output of an attention, and a gradient for query, key and value."""
    output = attention(*images, field, window, heads)
    return [output.detach(), *torch.autograd.grad(output.sin().sum(), images)]
