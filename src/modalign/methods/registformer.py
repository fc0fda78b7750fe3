"""RegistFormer: RbG's predecessor, which refines the output of MUNIT in the style of the reference."""

from collections.abc import Mapping
from typing import Any, ClassVar

from modalign.methods._stage2 import Stage2Method
from modalign.methods._stage2_options import Stage2Options
from modalign.methods.rbg import PRESETS

DIFFERENCES: dict[str, dict[str, Any]] = {
    "paper": {"shift_voxels": 0},
    # A small MUNIT makes out less of the input's structures than the input itself shows.
    "small": {
        "shift_voxels": 0,
        "steps": 400,
        "warm_up": 0.5,
        "cool_down": 0.06,
        "practice_every": 3,
        "contextual_of": "reference",
        "parts": 2,
        "nce_weight": 2.0,
        "nce_key": "input",
    },
}
"""From the presets of RbG."""


class RegistFormer(Stage2Method):
    """The network of RbG's stage 2 with another stage 1, `munit` with the style of the reference, and no shifts."""

    label = "RegistFormer"
    source = "RegistFormer, section 3 (DACA, losses) and 4.2 (training); released code where the paper is silent"

    class Options(Stage2Options):
        """Settings of RegistFormer; the released code initialises by `normal`, the text says `kaiming`."""

        presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
            name: {**settings, **DIFFERENCES[name]} for name, settings in PRESETS.items()
        }
