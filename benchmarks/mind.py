"""MIND-SSC of a volume, against the descriptor in convexAdam."""

import torch
from convexAdam.convex_adam_utils import MINDSSC
from racing import Race
from scenes import smooth_image
from torch import Tensor

from modalign.similarity.mind import mind_ssc


def races() -> list[Race]:
    """The descriptor alone, and with a gradient through it, as a loss needs it."""
    image = torch.from_numpy(smooth_image((96, 96, 96), seed=0))[None, None]
    small = torch.from_numpy(smooth_image((64, 64, 64), seed=0))[None, None].requires_grad_()

    def gradient(descriptor: Tensor) -> Tensor:
        found = torch.autograd.grad(descriptor.square().mean(), small)[0]
        return found / found.abs().max()

    peer = "convexAdam `MINDSSC`"
    return [
        Race("MIND-SSC, 96³", peer, lambda: mind_ssc(image), lambda: _theirs(image), channels_difference),
        Race("MIND-SSC and gradient, 64³", peer, lambda: gradient(mind_ssc(small)), lambda: gradient(_theirs(small))),
    ]


def _theirs(image: Tensor) -> Tensor:
    return MINDSSC(image, device="cpu")


def channels_difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference between each of our channels and the peer's closest one: their order is a convention."""
    closest = [min(float((a - b).abs().max()) for b in theirs[0]) for a in ours[0]]
    return max(closest)
