"""PatchNCE: features at one place of two images have to resemble each other more than features at other places.

Park et al., "Contrastive learning for unpaired image-to-image translation" (ECCV 2020); RbG, Eq. 8.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def patch_nce(query: Tensor, key: Tensor, temperature: float = 0.07) -> Tensor:
    """Cross-entropy of finding a query's own place among all keys of the same image, 0 if every place is found.

    Chance is log N. The released codes set the diagonal of the negatives to -10 before the division by the temperature
    and prepend the positive, which is the same number to e^-140. Keys get no gradient.

    Args:
        query: (B, N, C), L2-normalised features at N places of the generated image.
        key: (B, N, C), of the input image, at the same places in the same order.
        temperature: divides the cosines.
    """
    if query.shape != key.shape or query.ndim != 3:
        raise ValueError(f"query and key are (B, N, C) alike, not {tuple(query.shape)} and {tuple(key.shape)}")
    logits = torch.bmm(query, key.detach().transpose(1, 2)) / temperature
    places = torch.arange(query.shape[1], device=query.device).expand(len(query), -1)
    return functional.cross_entropy(logits.flatten(0, 1), places.flatten())


class PatchSampler(nn.Module):
    """Features at random places of feature maps, through a small perceptron (two linear layers), L2-normalised.

    Args:
        channels: of each feature map, in the order in which they come.
        width: of the perceptron.
        shared: one perceptron for all maps, which then have equally many channels (RbG), or one for each (CUT).

    Raises:
        ValueError: maps of different channels for a shared perceptron.
    """

    def __init__(self, channels: Sequence[int], width: int = 256, shared: bool = False):
        super().__init__()
        if shared and len(set(channels)) > 1:
            raise ValueError(f"maps of {list(channels)} channels can't share a perceptron: take shared=False")
        kinds = channels[:1] if shared else channels
        self.shared = shared
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.Linear(c, width), nn.ReLU(), nn.Linear(width, width)) for c in kinds
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight, gain=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """Features of each map at its places.

        Args:
            maps: (B, C, *S) each.
            places: indices into the flattened S, (N,) each, the same for all images of the batch.

        Returns:
            (B, N, width) for each map.
        """
        perceptrons = [self.perceptrons[0 if self.shared else i] for i in range(len(maps))]
        picked = [m.flatten(2).index_select(2, p).transpose(1, 2) for m, p in zip(maps, places, strict=True)]
        return [functional.normalize(f(x), dim=2, eps=1e-7) for f, x in zip(perceptrons, picked, strict=True)]


def random_places(maps: Sequence[Tensor], count: int, random: torch.Generator) -> list[Tensor]:
    """`count` different places of each map, or all there are, drawn on the CPU: indices into its flattened S."""
    return [torch.randperm(m[0, 0].numel(), generator=random)[:count].to(m.device) for m in maps]


def patch_nce_of_maps(
    sampler: nn.Module,
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    random: torch.Generator,
    count: int = 256,
    temperature: float = 0.07,
) -> Tensor:
    """PatchNCE averaged over feature maps, at `count` random places of each.

    Args:
        sampler: a :class:`PatchSampler`.
        query: features of the generated image, (B, C, *S) each.
        key: features of the input image, alike.
        random: draws the places.
        count: places per map; small maps give all they have.
        temperature: see :func:`patch_nce`.
    """
    places = random_places(query, count, random)
    with torch.no_grad():
        keys = sampler(key, places)
    queries = sampler(query, places)
    return torch.stack([patch_nce(q, k, temperature) for q, k in zip(queries, keys, strict=True)]).mean()
