"""The similarities by the names that configurations use."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from modalign.similarity.mind import mind_loss
from modalign.similarity.mse import mae, mse
from modalign.similarity.mutual_information import mutual_information
from modalign.similarity.ncc import global_ncc, local_ncc

Loss = Callable[..., Tensor]

LOSSES: dict[str, Loss] = {
    "mae": mae,
    "mse": mse,
    "ncc": local_ncc,
    "global-ncc": global_ncc,
    "mi": mutual_information,
    "mind": mind_loss,
}


def loss_function(name: str, **settings: Any) -> Loss:
    """The loss ``(fixed, warped, mask=None) -> scalar`` of that name, with its other arguments set."""
    if name not in LOSSES:
        raise ValueError(f"there is no similarity {name!r}; choose from {', '.join(LOSSES)}")
    return partial(LOSSES[name], **settings)
