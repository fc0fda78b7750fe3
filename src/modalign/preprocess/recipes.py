"""The recipes: for each paper's data, the steps of its preparation in order, with the numbers that it gives.

A step's parameters and their defaults are the keyword-only arguments of its function (see ``steps``); a recipe states
those that matter to the paper. :mod:`modalign.preprocess.overrides` changes them by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class RecipeStep:
    """One step of a recipe: the function's name, the step's name in overrides and records, and its parameters."""

    function: str
    name: str
    on: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """Steps in order, and where they come from."""

    source: str
    steps: tuple[RecipeStep, ...]


def _step(function: str, name: str | None = None, on: bool = True, **parameters: Any) -> RecipeStep:
    return RecipeStep(function, name or function, on, parameters)


REORIENT = (_step("reorient"), _step("centre"))


def _rigid(on: bool) -> RecipeStep:
    return _step("register", "rigid", on=on)


_PELVIS_GRID = (
    *REORIENT,
    # SynthRAD2023 comes rigidly registered already.
    _rigid(on=False),
    _step("resample", spacing_mm=[1.0, 1.0, 2.5]),
    _step("resize", size=[384, 320, None], keep_aspect=True),
    _step("one_grid"),
)
_PELVIS_PAD = _step("crop_or_pad", size=[384, 320, None])


def _rbg_ixi(*misalignment: RecipeStep) -> tuple[RecipeStep, ...]:
    return (
        *REORIENT,
        _rigid(on=False),
        _step("resample", spacing_mm=[0.9375, 0.9375, 1.2], field_of_view_mm=[240.0, 240.0, 109.2], tolerance_mm=0.001),
        _step("crop_or_pad", size=[256, 256, 91]),
        _step("one_grid"),
        _step("assume_aligned", when="same_family"),
        _step("n4", on=False),
        _step("nyul"),
        _step("minmax"),
        *misalignment,
    )


_RBG_RIGID: dict[str, Any] = {"rotation_deg": [0.0, 0.0, 5.0], "translation_mm": [10.0, 10.0, 0.0]}


def _imse(
    size: list[int | None],
    *,
    in_plane: bool,
    registered: bool = True,
    field_of_view_mm: list[float | None] | None = None,
) -> tuple[RecipeStep, ...]:
    angles = [0.0, 0.0, 3.0] if in_plane else [3.0, 3.0, 3.0]
    # The text gives one displacement for all axes; both released 3D programs halve it along z.
    shift = [0.08, 0.08, 0.0] if in_plane else [0.08, 0.08, 0.04]
    return (
        *REORIENT,
        _rigid(on=not registered),
        _step("resize", size=size, field_of_view_mm=field_of_view_mm),
        _step("one_grid"),
        _step("assume_aligned", when="same_family"),
        _step("labelled_slices", on=in_plane),
        # Where the true field is known, errors in the air around the head would count for most of the mean.
        _step("body_mask", "body", final_dilation=0),
        _step("window"),
        _step("minmax", of="mr"),
        _step(
            "misalign",
            of="moving",
            splits=["validation", "test"],
            rotation_deg=angles,
            translation_half_fov=shift,
            scale=0.08,
            elastic="simard",
            sigma_voxels=12.0,
            alpha_voxels=80.0,
            nominal_size=size,
            in_plane=in_plane,
        ),
    )


_RELEASED_3D = (
    "IMSE-3D-Full, which leave next to nothing to register, are the override misalign: {rotation_deg: [1, 1, 1], "
    "translation_half_fov: [0.01, 0.01, 0.005], scale: 0.01, alpha_voxels: 120}. "
)
_ONE_SCAN = (
    "Text and code misalign both scans, independently (misalign.of: all). The printed initial Dice is about what "
    "phantoms give with one of them misaligned (docs/realism.md), and that is done here."
)
_CLINICAL = (
    "The paper doesn't say how its pairs were brought together before they were misaligned; HaN-Seg, which stands in "
    "for them, comes unregistered, so a rigid registration comes first. The CT window is our choice."
)

_KEEP: list[int | None] = [None, None, None]

RECIPES: dict[str, Recipe] = {
    "rbg-pelvis": Recipe(
        "RbG, section IV-A 1a: MR-CT pelvis. N4 is an option (RegistFormer, its predecessor, has it on).",
        (
            *_PELVIS_GRID,
            _step("n4", on=False),
            _step("nyul"),
            _step("clip_percentiles", "clip", of="ct", low_percent=5.0, high_percent=95.0),
            _step("minmax"),
            _PELVIS_PAD,
        ),
    ),
    "registformer-pelvis": Recipe(
        "RegistFormer, section 4.1: N4, Nyul, z-score and min-max of each MR; CT clipped at its own percentiles, then "
        "z-score and min-max over the data set (here: over its training split).",
        (
            *_PELVIS_GRID,
            _step("n4"),
            _step("clip_percentiles", "clip", of="ct", low_percent=5.0, high_percent=95.0),
            _step("nyul"),
            _step("dataset_scale", of="ct"),
            _step("zscore", of="mr"),
            _step("minmax", of="mr"),
            _PELVIS_PAD,
        ),
    ),
    "rbg-cbct": Recipe(
        "RbG, section IV-A 1b: CBCT-CT brain. The released loader crops 196 to 192 (crop_or_pad.multiple_of: 16).",
        (
            *REORIENT,
            _rigid(on=False),
            _step("resample", spacing_mm=[1.0, 1.0, 1.0], field_of_view_mm=[196.0, 196.0, None]),
            _step("one_grid"),
            _step("clip_percentiles", "clip", of="ct", low_percent=1.0, high_percent=99.0),
            _step("crop_or_pad", size=[196, 196, None]),
            _step("minmax"),
        ),
    ),
    "rbg-ixi-aligned": Recipe("RbG, section IV-A 2a: T1-T2 brain, as scanned.", _rbg_ixi()),
    "rbg-ixi-rigid": Recipe(
        "RbG, section IV-A 2a, rigid misalignment of both scans. The text misaligns the training data; the row "
        "'Misaligned Test Set' of Table IV needs a misaligned test set, so all splits are (misalign.splits).",
        _rbg_ixi(_step("misalign", **_RBG_RIGID)),
    ),
    "rbg-ixi-nonrigid": Recipe(
        "RbG, section IV-A 2a, rigid misalignment and elastic deformation of both scans; splits as for rigid.",
        _rbg_ixi(_step("misalign", **_RBG_RIGID, elastic="bspline", max_mm=5.0, control_points=9)),
    ),
    "locor-abdomen": Recipe(
        "Locor, section 5, and its experiments: Learn2Reg abdomen MR-CT, with their foreground masks, in which they "
        "measure too. Those hold the air around the body: where a true field is known, turn the step `body` on.",
        (
            *REORIENT,
            _rigid(on=False),
            _step("resize", size=_KEEP),
            _step(
                "foreground_masks",
                "masks",
                mr_above=0.0,
                ct_above_hu=-1024.0,
                mr_erosion=1,
                ct_erosion=1,
                exceptions={"0010": {"ct_above_hu": -1023.0, "mr_erosion": 3}, "0014": {"mr_erosion": 4}},
                exceptions_in="learn2reg-abdomen-mr-ct-2021",
            ),
            _step("body_mask", "body", on=False, above=0.1, final_dilation=0),
            _step("minmax"),
        ),
    ),
    "locor-cermep": Recipe(
        "Locor, section 5, and its experiments: CERMEP T1-CT, error measured in a head mask.",
        (
            *REORIENT,
            _rigid(on=False),
            _step("resize", size=_KEEP),
            _step("body_mask", "mask", above=0.1),
            _step("minmax"),
        ),
    ),
    "locor-ixi-t2-pd": Recipe(
        "Locor, section 5, and its experiments: IXI, PD deformed synthetically, T2 as scanned.",
        (
            *REORIENT,
            _step("resize", size=_KEEP),
            _step("assume_aligned", when="same_family"),
            _step(
                "misalign",
                of="fixed",
                rotation_deg=[22.5, 22.5, 22.5],
                translation_mm=[30.0, 30.0, 30.0],
                elastic="velocity",
                noise_sd_mm=[700.0, 900.0],
                sigma_mm=[14.0, 16.0],
                squarings=7,
            ),
            _step("body_mask", "mask", above=0.05),
            _step("minmax"),
        ),
    ),
    "imse-2d": Recipe(
        "IMSE, section 4.2: BraTS 2019 T1-T2, slices of 240 x 240, for evaluation those that have contours. Text and "
        "released 2D settings agree on 3 degrees, 8 % and 8 %; misalign.alpha_voxels is 80 in the text, 120 released. "
        + _ONE_SCAN,
        _imse([240, 240, None], in_plane=True),
    ),
    "imse-3d": Recipe(
        "IMSE, section 4.2: BraTS 2019 T1-T2, volumes, of which the middle 192 x 192 mm are kept as in the released "
        "evaluator. 3 degrees, 8 % and 8 % as in the text and in the settings of the released IMSE-3D-Pure; those of "
        + _RELEASED_3D
        + _ONE_SCAN,
        _imse([128, 128, 48], in_plane=False, field_of_view_mm=[192.0, 192.0, None]),
    ),
    "imse-2d-clinical": Recipe(
        "IMSE, section 4.2: head and neck CT-MR, slices of 192 x 192 that have contours. "
        + _CLINICAL
        + " "
        + _ONE_SCAN,
        _imse([192, 192, None], in_plane=True, registered=False, field_of_view_mm=[240.0, 240.0, None]),
    ),
    "imse-3d-clinical": Recipe(
        "IMSE, section 4.2: head and neck CT-MR, volumes. "
        + _CLINICAL
        + " 3 degrees, 8 % and 8 % as for BraTS; the settings of "
        + _RELEASED_3D
        + _ONE_SCAN,
        _imse([128, 128, 48], in_plane=False, registered=False, field_of_view_mm=[240.0, 240.0, 240.0]),
    ),
    "cao-pelvis": Recipe(
        "Cao et al. 2018, section 3: linear registration by mutual information, 1 mm, crop to 218 x 196 x 100. The "
        "alignment between patients is left out: no method here relates two patients.",
        (
            *REORIENT,
            _step("register", "affine", transform="affine"),
            _step("resample", spacing_mm=[1.0, 1.0, 1.0], field_of_view_mm=[218.0, 196.0, 100.0]),
            _step("crop_or_pad", size=[218, 196, 100]),
            _step("one_grid"),
            _step("window"),
            _step("minmax", of="mr"),
        ),
    ),
    "own-pairs": Recipe(
        "For a user's own scans: the fixed grid is kept, the moving scan is registered rigidly and resampled to it.",
        (
            *REORIENT,
            _rigid(on=True),
            _step("resize", size=_KEEP),
            _step("one_grid"),
            _step("window"),
            _step("minmax", of="mr", low_percent=0.5, high_percent=99.5),
        ),
    ),
    "known-deformation": Recipe(
        "For a user's own aligned scans: the moving scan gets a smooth deformation that is known.",
        (
            *REORIENT,
            _step("resize", size=_KEEP),
            _step("one_grid"),
            _step("assume_aligned"),
            _step("window"),
            _step("minmax", of="mr", low_percent=0.5, high_percent=99.5),
            _step("misalign", of="moving", elastic="smooth", max_mm=10.0, sigma_mm=[18.0, 18.0]),
        ),
    ),
}
