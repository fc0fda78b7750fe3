"""Register by Generation (RbG): an image aligned with the input, generated from local features of the reference."""

from collections.abc import Mapping
from typing import Any, ClassVar

from modalign.methods._stage2 import Stage2Method
from modalign.methods._stage2_options import Stage2Options

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "epochs": 100,
        "batch": 4,
        "crop": (96, 96),
        "learning_rate": 2e-4,
        "betas": (0.9, 0.99),
        "schedule": "multistep",
        "clip": 0.5,
        "shift_voxels": 10,
    },
    # Whole images, because the statistics of normalisation differ between crops and images; parts of 16 x 16 voxels
    # are the share of a 64 x 64 image that the paper's quadrants of crops are.
    "small": {
        "steps": 400,
        "batch": 2,
        "crop": None,
        "learning_rate": 2e-3,
        "schedule": "linear",
        "clip": 0.5,
        "initialisation": "identity",
        "attention": "distance",
        "output_gain": 1.01,
        "warm_up": 0.67,
        "cool_down": 0.12,
        "practice_every": 2,
        "window": 3,
        "shift_voxels": 1,
        "vgg_width": 16,
        "contextual_layers": ("conv1_1", "conv1_2", "conv2_2"),
        "contextual_of": "output",
        "parts": 4,
        "parts_move": True,
        "nce_weight": 1.0,
        "nce_key": "initial",
        "nce_layers": ("conv1_2", "conv2_2"),
        "nce_width": 64,
        "gan_weight": 0.1,
        "discriminator_channels": 12,
        "discriminator_layers": 2,
        "discriminator_norm": "instance",
    },
}


class Rbg(Stage2Method):
    """Stage 2 of RbG, on the first output of stage 1 (`rbg_stage1`) and the field of R between it and the reference."""

    label = "RbG"
    source = "RbG, sections III-D (DACA), III-E (losses), IV-B (training); released code where the paper is silent"

    class Options(Stage2Options):
        """Settings of RbG's stage 2. The printed weights 1 : 10 : 1 are ten times those released, which are these."""

        presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS
