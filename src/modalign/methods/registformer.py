"""RegistFormer: RbG's predecessor, which refines the output of MUNIT in the style of the reference."""

from collections.abc import Mapping
from typing import Any, ClassVar

from modalign.methods._stage2 import Stage2Method
from modalign.methods._stage2_options import Stage2Options
from modalign.methods.rbg import PRESETS

NO_SHIFT = {"shift_voxels": 0}


class RegistFormer(Stage2Method):
    """The network of RbG's stage 2 with another stage 1, `munit` with the style of the reference, and no shifts."""

    label = "RegistFormer"
    source = "RegistFormer, section 3 (DACA, losses) and 4.2 (training); released code where the paper is silent"

    class Options(Stage2Options):
        """Settings of RegistFormer; the released code initialises by `normal`, the text says `kaiming`."""

        presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
            name: {**settings, **NO_SHIFT} for name, settings in PRESETS.items()
        }
