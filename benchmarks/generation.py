"""The losses and networks of generation, against their formulas in PyTorch, as the released codes have them."""

from collections.abc import Callable

import torch
from racing import Race
from torch import Tensor, nn
from torch.nn import functional

from modalign.networks.padain import Synthesis
from modalign.similarity.contextual import contextual_similarity
from modalign.similarity.patch_nce import patch_nce


def races() -> list[Race]:
    """Contextual loss of a 96 x 96 crop's four quadrants, PatchNCE of 256 places, a pass of the synthesis network."""
    image, target = _features(4, 2304, 64, 0), _features(4, 2304, 64, 1)
    query, key = _features(8, 256, 256, 2), _features(8, 256, 256, 3)
    fast, plain = _synthesis(fast=True), _synthesis(fast=False)

    def gradient(loss: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
        first = first.clone().requires_grad_()
        found = torch.autograd.grad(loss(first, second).sum(), first)[0]
        return found / found.abs().max()

    written_down = "the formula in PyTorch"
    return [
        Race(
            "contextual loss and gradient, 4 x 2304 places, 64 channels",
            written_down,
            lambda: gradient(contextual_similarity, image, target),
            lambda: gradient(_materialised, image, target),
        ),
        Race(
            "PatchNCE and gradient, 8 x 256 places",
            "the released formulation",
            lambda: gradient(patch_nce, query, key),
            lambda: gradient(_released_nce, query, key),
        ),
        Race(
            "PAdaIN network and gradient, 2 x 96², 64 channels, factor 32",
            "style networks at full resolution",
            lambda: _pass(fast),
            lambda: _pass(plain),
        ),
    ]


def _features(batch: int, places: int, channels: int, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(batch, places, channels, generator=random), dim=2)


def _materialised(first: Tensor, second: Tensor) -> Tensor:
    distance = ((1 - torch.bmm(first, second.transpose(1, 2))) / 2).clamp(min=0)
    weights = torch.exp((1 - distance / (distance.amin(2, keepdim=True) + 1e-5)) / 0.5)
    return (weights / weights.sum(2, keepdim=True)).amax(1).mean(1)


def _released_nce(query: Tensor, key: Tensor) -> Tensor:
    positive = (query * key).sum(2, keepdim=True)
    negatives = torch.bmm(query, key.transpose(1, 2))
    negatives = negatives.masked_fill(torch.eye(query.shape[1], dtype=torch.bool), -10.0)
    logits = torch.cat([positive, negatives], 2).flatten(0, 1) / 0.07
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def _synthesis(fast: bool) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Synthesis(64, 128, 32, fast=fast)


def _pass(network: nn.Module) -> Tensor:
    random = torch.Generator().manual_seed(0)
    image, reference = torch.rand(2, 2, 1, 96, 96, generator=random) * 2 - 1
    image.requires_grad_()
    found = torch.autograd.grad(
        network(image, reference).square().sum(), [image, *network.parameters()], allow_unused=True
    )
    return found[0] / found[0].abs().max()
