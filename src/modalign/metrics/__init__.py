"""The measures: what each is called, what it needs, which way is better. Importing this loads no heavy library.

A measure is an entry of :data:`MEASURES` plus one function, named ``module:function``, that gets a
:class:`~modalign.metrics.pair.Pair` and its options and returns a list of :class:`~modalign.metrics.pair.Value`
(measures of whole sets of slices, FID and KID, get features instead, see :mod:`modalign.metrics.distribution`).
"""

import dataclasses
import difflib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from modalign.errors import ConfigError
from modalign.metrics.choices import check_option

LOST = "lost, counts the diagonal of the grid"
"""What surface distances remark, after a structure's name, where the result lacks it: the distance is made up."""

RANDOM_SUFFIX = "_random"
"""What the names of measures end with whose features come from random weights: they are not the published ones."""


@dataclass(frozen=True)
class Measure:
    """One measure, as tables, configuration and the measuring code know it.

    Attributes:
        name: the name in configuration and in the metric column.
        label: the name in tables.
        unit: unit of the values, empty if they have none.
        better: which way is better; ``reference`` means closest to the value of the unaligned reference.
        scope: one value per axial slice, case, structure of a case, or set of all cases.
        needs: what has to exist: ``image`` and ``field`` of the alignment, ``labels``, ``true_field``, ``true_image``,
            ``pseudo_image``: the fixed image translated to the moving contrast, and ``segmentation`` of the aligned
            image, beside labels of the fixed one.
        digits: decimals in tables.
        doc: range, and what background does to it.
        function: ``module:function`` that computes it.
        options: the options with their defaults.
        undefined: when a value can't be computed and is left out.
        features: the network whose features it compares, empty if none.
    """

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower", "reference"]
    scope: Literal["slice", "case", "structure", "set"]
    needs: frozenset[str]
    digits: int
    doc: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    undefined: str = ""
    features: Literal["", "inception", "lpips"] = ""

    def load(self) -> Callable[..., Any]:
        """Import the function that computes the measure."""
        module, function = self.function.split(":")
        return getattr(importlib.import_module(module), function)

    def resolve(self, options: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The defaults, overridden by `options`.

        Raises:
            ConfigError: there is no such option, or it can't have that value.
        """
        unknown = sorted(set(options or {}) - set(self.options))
        if unknown:
            known = ", ".join(self.options) or "none"
            raise ConfigError(f"measure {self.name} has no option {unknown[0]!r}; its options are: {known}")
        for option, value in (options or {}).items():
            check_option(self.name.removesuffix(RANDOM_SUFFIX), option, value)
        return {**self.options, **(options or {})}


_IMAGE = frozenset({"image"})
_FIELD = frozenset({"field"})
_LABELS = frozenset({"field", "labels"})
_TRUE_FIELD = frozenset({"field", "true_field"})
_TRUE_IMAGE = frozenset({"image", "true_image"})
_PSEUDO_IMAGE = frozenset({"image", "pseudo_image"})
_SEGMENTATION = frozenset({"image", "segmentation"})
_LABEL_OPTIONS = {"interpolation": "nearest", "region": "grid", "per_slice": False}
_SURFACE_OPTIONS = {**_LABEL_OPTIONS, "missing": "diagonal"}
_NO_STRUCTURE = "a structure that is missing in the fixed or the moving label map, or lost with missing: drop"
_HERE = "modalign.metrics"

_ALL = (
    Measure(
        "gc", "GC", "", "higher", "slice", _IMAGE, 2,
        "-1 to 1; correlation of Canny edges of fixed and aligned image; large even backgrounds raise it.",
        f"{_HERE}.structure:measure_gc", {"thresholds": "by_modality", "region": "slice"},
        undefined="a slice in which one of the images has no edges",
    ),
    Measure(
        "gc_masked", "GC (in mask)", "", "higher", "slice", _IMAGE, 2,
        "-1 to 1; as GC, correlated over the pixels of the case's mask; background plays no part.",
        f"{_HERE}.structure:measure_gc", {"thresholds": "by_modality", "region": "mask"},
        undefined="a slice in which one of the images has no edges in the mask",
    ),
    Measure(
        "nmi", "NMI", "", "higher", "slice", _IMAGE, 2,
        "0 to 1; shared grey-level information of fixed and aligned image; common background raises it.",
        f"{_HERE}.information:measure_nmi", {"region": "slice"},
        undefined="a slice in which both images are constant",
    ),
    Measure(
        "nmi_masked", "NMI (in mask)", "", "higher", "slice", _IMAGE, 2,
        "0 to 1; as NMI, over the pixels of the case's mask; background plays no part.",
        f"{_HERE}.information:measure_nmi", {"region": "mask"},
        undefined="a slice outside the mask, or constant in it",
    ),
    Measure(
        "fid", "FID", "", "lower", "set", _IMAGE, 1,
        "0 and up; distance of Gaussian fits to Inception features; biased upwards for few slices; background counts.",
        f"{_HERE}.distribution:measure_fid", {},
        undefined="fewer than 2 slices", features="inception",
    ),
    Measure(
        "kid", "KID", "", "lower", "set", _IMAGE, 4,
        "about 0 and up (unbiased, so slightly negative values happen); background counts.",
        f"{_HERE}.distribution:measure_kid", {"subsets": 100, "subset_size": 50},
        undefined="fewer than 2 slices", features="inception",
    ),
    Measure(
        "kid2", "KID (subsets of 2)", "", "lower", "set", _IMAGE, 4,
        "about 0 and up; as KID, over subsets of 2 slices as in the RbG code: its mean is that of KID, but very noisy.",
        f"{_HERE}.distribution:measure_kid", {"subsets": 100, "subset_size": 2},
        undefined="fewer than 2 slices", features="inception",
    ),
    Measure(
        "sharpness", "Sharpness", "", "higher", "slice", _IMAGE, 1,
        "0 and up; variance of the Laplacian of the 8-bit image; noise raises it, even background lowers it.",
        f"{_HERE}.texture:measure_sharpness",
    ),
    Measure(
        "tv_z", "TV-z", "", "reference", "slice", _IMAGE, 4,
        "0 to 1; mean change between neighbouring slices inside the Otsu foreground; background plays no part.",
        f"{_HERE}.texture:measure_tv_z",
        undefined="a slice without foreground, or a constant volume",
    ),
    Measure(
        "psnr", "PSNR", "dB", "higher", "slice", _TRUE_IMAGE, 1,
        "decibel against the true aligned image; matching background raises it.",
        f"{_HERE}.image:measure_psnr", {"range": "stored", "region": "slice"},
        undefined="a slice that equals the truth, or lies outside the region",
    ),
    Measure(
        "ssim", "SSIM", "", "higher", "slice", _TRUE_IMAGE, 2,
        "-1 to 1 against the true aligned image; matching even background counts as 1.",
        f"{_HERE}.image:measure_ssim", {"range": "stored", "window": "gaussian"},
        undefined="a slice smaller than the window",
    ),
    Measure(
        "lpips", "LPIPS", "", "lower", "slice", _TRUE_IMAGE, 3,
        "0 and up; distance of network features to the true aligned image; matching background lowers it.",
        f"{_HERE}.perceptual:measure_lpips", {"net": "alexnet"},
        undefined="a slice below 32 pixels", features="lpips",
    ),
    Measure(
        "nmae", "NMAE", "", "lower", "slice", _TRUE_IMAGE, 3,
        "0 to 1; mean absolute error over the intensity range; where the truth is background doesn't count by default.",
        f"{_HERE}.image:measure_nmae", {"region": "foreground"},
        undefined="a slice outside the region",
    ),
    Measure(
        "mae_hu", "MAE", "HU", "lower", "case", _TRUE_IMAGE, 1,
        "0 and up, in HU inside the case's mask; background plays no part.",
        f"{_HERE}.image:measure_mae_hu", {"region": "mask"},
        undefined="an empty mask",
    ),
    Measure(
        "mae_pseudo_hu", "MAE to pseudo-CT", "HU", "lower", "case", _PSEUDO_IMAGE, 1,
        "0 and up, in HU inside the case's mask, against a translated fixed image, so never 0; no truth is needed.",
        f"{_HERE}.image:measure_mae_pseudo_hu", {"region": "mask"},
        undefined="an empty mask",
    ),
    Measure(
        "dice", "Dice", "", "higher", "structure", _LABELS, 2,
        "0 to 1 per structure; small structures score lower at the same error; background plays no part.",
        f"{_HERE}.overlap:measure_dice", _LABEL_OPTIONS,
        undefined="a structure that is missing in the fixed or the moving label map",
    ),
    Measure(
        "hausdorff_mm", "HD", "mm", "lower", "structure", _LABELS, 2,
        "0 to the diagonal of the grid; the largest distance between two surfaces, so one stray voxel decides; a lost "
        "structure counts the diagonal; background plays no part.",
        f"{_HERE}.surface:measure_hausdorff", _SURFACE_OPTIONS, undefined=_NO_STRUCTURE,
    ),
    Measure(
        "hd95_mm", "HD95", "mm", "lower", "structure", _LABELS, 2,
        "0 to the diagonal of the grid; 95th percentile of the distances between two surfaces; a lost structure counts "
        "the diagonal; background plays no part.",
        f"{_HERE}.surface:measure_hd95", {**_LABEL_OPTIONS, "directions": "max", "missing": "diagonal"},
        undefined=_NO_STRUCTURE,
    ),
    Measure(
        "asd_mm", "ASD", "mm", "lower", "structure", _LABELS, 2,
        "0 to the diagonal of the grid; mean distance between two surfaces, both directions; a lost structure counts "
        "the diagonal; background plays no part.",
        f"{_HERE}.surface:measure_asd", _SURFACE_OPTIONS, undefined=_NO_STRUCTURE,
    ),
    Measure(
        "segmented_dice", "Dice, segmented", "", "higher", "structure", _SEGMENTATION, 2,
        "0 to 1 per structure, between contours of the fixed scan and what a segmenter finds in the aligned image; "
        "background plays no part.",
        f"{_HERE}.segmented:measure_dice", undefined="a structure that is missing in the fixed label map",
    ),
    Measure(
        "segmented_hausdorff_mm", "HD, segmented", "mm", "lower", "structure", _SEGMENTATION, 2,
        "0 to the diagonal of the grid; the largest distance between surfaces, of which a single stray voxel of the "
        "segmenter decides; a structure that it doesn't find counts the diagonal; background plays no part.",
        f"{_HERE}.segmented:measure_hausdorff", {"missing": "diagonal"},
        undefined="a structure that is missing in the fixed label map, or not found with missing: drop",
    ),
    Measure(
        "tre_mm", "TRE", "mm", "lower", "case", _TRUE_FIELD, 2,
        "0 and up; mean distance between field and true field inside the case's mask.",
        f"{_HERE}.field_error:measure_tre", {"unit": "mm", "percentile": None, "region": "mask"},
        undefined="an empty mask",
    ),
    Measure(
        "tre_voxel", "TRE", "voxel", "lower", "case", _TRUE_FIELD, 2,
        "0 and up; as TRE, in voxels of the fixed grid.",
        f"{_HERE}.field_error:measure_tre", {"unit": "voxel", "percentile": None, "region": "mask"},
        undefined="an empty mask",
    ),
    Measure(
        "tre95_mm", "TRE95", "mm", "lower", "case", _TRUE_FIELD, 2,
        "0 and up; 95th percentile of the distances between field and true field inside the case's mask.",
        f"{_HERE}.field_error:measure_tre", {"unit": "mm", "percentile": 95, "region": "mask"},
        undefined="an empty mask",
    ),
    Measure(
        "grad_phi_l2", "|∇φ|²", "", "lower", "case", _FIELD, 4,
        "0 and up; mean squared difference of neighbouring displacements in voxels, over the whole grid.",
        f"{_HERE}.field:measure_grad_phi_l2", {"dimension": "auto"},
        undefined="a grid of one voxel",
    ),
    Measure(
        "folding_percent", "Folding", "%", "lower", "case", _FIELD, 2,
        "0 to 100; share of voxels whose Jacobian determinant is not positive, inside the case's mask, so that "
        "background plays no part.",
        f"{_HERE}.field:measure_folding", {"region": "mask"}, undefined="an empty mask",
    ),
    Measure(
        "jacobian_sd", "SD(|J|)", "", "lower", "case", _FIELD, 3,
        "0 and up, 0 for rigid and affine fields; standard deviation of the Jacobian determinant inside the fixed "
        "mask, so that background plays no part.",
        f"{_HERE}.field:measure_jacobian_sd", {"region": "mask"}, undefined="an empty mask",
    ),
    Measure(
        "sdlogj", "SDlogJ", "", "lower", "case", _FIELD, 3,
        "0 and up, 0 for rigid and affine fields; standard deviation of log |J| inside the case's mask, so that "
        "background plays no part; folded voxels count as log 1e-9.",
        f"{_HERE}.field:measure_sdlogj", {"region": "mask"}, undefined="an empty mask",
    ),
    Measure(
        "sdlogj_l2r", "SDlogJ (Learn2Reg script)", "", "lower", "case", _FIELD, 3,
        "0 and up; the Learn2Reg script's value, shifted by 3 before the logarithm: several times smaller than SDlogJ; "
        "over the whole grid, so that even background lowers it.",
        f"{_HERE}.field:measure_sdlogj_l2r", {"region": "grid"},
        undefined="a grid of fewer than 5 voxels along an axis, or an empty mask",
    ),
)  # fmt: skip

MEASURES: dict[str, Measure] = {m.name: m for m in _ALL}
"""Every measure by name. ``fid``, ``kid`` and ``lpips`` are published measures only with pretrained features."""


def measure_by_name(name: str) -> Measure:
    """The measure called `name`; ``fid_random`` and the like are the same measures with random features.

    Raises:
        ConfigError: there is no such measure.
    """
    if name in MEASURES:
        return MEASURES[name]
    plain = MEASURES.get(name.removesuffix(RANDOM_SUFFIX))
    if plain and plain.features:
        return dataclasses.replace(plain, name=name, label=f"{plain.label} (random features)")
    close = difflib.get_close_matches(name, MEASURES, n=1)
    hint = f": did you mean {close[0]!r}?" if close else "."
    raise ConfigError(f"there is no measure {name!r}{hint} The measures are: {', '.join(MEASURES)}")
