"""Scaling and squaring of a velocity field, against MONAI."""

import torch
from monai.networks.blocks import DVF2DDF
from racing import Race
from scenes import smooth_field

from modalign.spatial.integrate import integrate

SHAPE = (80, 80, 80)


def races() -> list[Race]:
    """Seven squarings, forward and backward as in training."""
    velocity = torch.from_numpy(smooth_field(SHAPE, seed=0))[None].requires_grad_()
    theirs = DVF2DDF(num_steps=7, padding_mode="border")

    def with_gradient(displacement: torch.Tensor) -> list[torch.Tensor]:
        return [displacement, torch.autograd.grad(displacement.square().sum(), velocity)[0]]

    return [
        Race(
            "Scaling and squaring, 7 steps, and gradient, 80³",
            "MONAI `DVF2DDF`",
            lambda: with_gradient(integrate(velocity, 7)),
            lambda: with_gradient(theirs(velocity)),
        )
    ]
