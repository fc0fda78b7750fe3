"""The steps of preparation: functions ``step(case, context, *, parameter=default, ...) -> (case, record)``.

The keyword-only arguments are the step's parameters: every one can be overridden by name. What a step returns as its
record (sampled values, estimated transforms, measured percentiles) goes into case.json beside the parameters, and is
enough to see, repeat and undo what was done. Steps that are fitted on the training split are in FITTED.
"""

from collections.abc import Callable
from typing import Any

from modalign.cases import Case
from modalign.preprocess.context import StepContext
from modalign.preprocess.steps import bias, geometry, intensity, masks, misalign, nyul, registration

Step = Callable[..., tuple[Case, dict[str, Any]]]

STEPS: dict[str, Step] = {
    "reorient": geometry.reorient,
    "centre": geometry.centre,
    "resample": geometry.resample_fixed,
    "resize": geometry.resize,
    "one_grid": geometry.one_grid,
    "crop_or_pad": geometry.crop_or_pad,
    "labelled_slices": geometry.labelled_slices,
    "assume_aligned": geometry.assume_aligned,
    "register": registration.register,
    "n4": bias.n4,
    "clip_percentiles": intensity.clip_percentiles,
    "window": intensity.window,
    "zscore": intensity.zscore,
    "minmax": intensity.minmax,
    "dataset_scale": intensity.dataset_scale,
    "nyul": nyul.standardise,
    "foreground_masks": masks.foreground_masks,
    "body_mask": masks.body_mask,
    "misalign": misalign.misalign,
}

FITTED: dict[str, tuple[Callable[..., dict[str, Any]], Callable[..., dict[str, Any]]]] = {
    "nyul": (nyul.summarise, nyul.fit),
    "dataset_scale": (intensity.summarise, intensity.fit),
}
"""Per fitted step: what one training scan contributes, ``summarise(case, side, **parameters)``, and how these become
the fitted values, ``fit(summaries, **parameters)``."""

__all__ = ["FITTED", "STEPS", "Step", "StepContext"]
