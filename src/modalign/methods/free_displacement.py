"""Instance optimisation of a displacement at every voxel, by a measure or by IMSE's evaluator."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from modalign.cases import Alignment, Case
from modalign.errors import ConfigError
from modalign.methods._registration import register_by, torch_threads
from modalign.methods.base import Context, Method, MethodOptions, moving_on_fixed_grid
from modalign.methods.imse_evaluator import evaluator_of

if TYPE_CHECKING:
    from torch import Tensor


class FreeDisplacement(Method):
    """Adam on a field of displacements, from zero on; nothing but its smoothness is asked of it."""

    label = "Free displacement"
    kind = "registration"
    dimensions = frozenset({2, 3})
    accelerated = True
    source = "Kong et al. 2023 (IMSE), section 4.3, which calls it traditional registration; settings as released"

    class Options(MethodOptions):
        """Settings of the optimisation."""

        similarity: Literal["mae", "ncc", "mi", "mind", "imse"] = Field(
            "mind", description="measure to descend; mae for one contrast, imse by the evaluator that `needs` names"
        )
        iterations: int = Field(200, ge=1, description="steps of Adam")
        learning_rate: float = Field(1.0, gt=0, description="step size, about voxels per step")
        smoothness_weight: float = Field(
            5.0, ge=0, description="weight of the mean squared gradient, summed over the axes and divided by three"
        )
        window: int = Field(9, ge=3, description="width of the local correlation's window in voxels (ncc), odd")
        bins: int = Field(50, ge=4, description="histogram bins (mi)")
        radius: int = Field(2, ge=0, description="half width of the patches in voxels (mind)")
        dilation: int = Field(2, ge=1, description="distance of the compared patches in voxels (mind)")

    options: Options

    def __init__(self, options: Mapping[str, Any] | None = None, dimension: int = 3, context: Context | None = None):
        super().__init__(options, dimension, context)
        evaluator_of(self)
        if context is not None and (self.options.similarity == "imse") != ("evaluator" in self.context.needs):
            raise ConfigError(
                f"method free_displacement with similarity {self.options.similarity}: similarity imse and "
                "needs: {evaluator: <a variant of imse_evaluator>} go together"
            )

    def align(self, case: Case) -> Alignment:
        """Optimise on the fixed grid and warp."""
        return register_by(case, self.dimension, self._register)

    def _register(self, case: Case) -> tuple[np.ndarray, dict[str, Any]]:
        import torch

        from modalign.methods._batches import to_batch
        from modalign.similarity.regularisation import gradient_l2
        from modalign.spatial.warp import warp

        options, device = self.options, self.context.device
        case = moving_on_fixed_grid(case)
        fixed, moving = (to_batch(volume.data, self.dimension).to(device) for volume in (case.fixed, case.moving))
        loss = self._loss(fixed, moving)
        with torch_threads(self.context.threads):
            field = torch.zeros(1, self.dimension, *fixed.shape[2:], device=device, requires_grad=True)
            optimiser = torch.optim.Adam([field], lr=options.learning_rate)
            for _ in range(options.iterations):
                optimiser.zero_grad()
                # The penalty is a mean over the axes.
                smoothness = gradient_l2(field) * (self.dimension / 3)
                total = loss(warp(moving, field)) + options.smoothness_weight * smoothness
                total.backward()
                optimiser.step()
        found = field.detach().cpu().numpy()[0]
        if self.dimension == 2:
            found = np.concatenate([found, np.zeros_like(found[:1])])[..., None]
        return found, {"loss": total.item()}

    def _loss(self, fixed: "Tensor", moving: "Tensor") -> Any:
        """``loss(warped)``, for a moving image in stored intensities."""
        from modalign.methods._batches import to_network
        from modalign.similarity.losses import loss_function

        evaluator = evaluator_of(self)
        if evaluator is not None:
            still = to_network(fixed, evaluator.limits["fixed"])

            def error(warped: "Tensor") -> "Tensor":
                seen = to_network(warped, evaluator.limits["moving"])
                pair = (still, seen) if evaluator.role == "moving" else (seen, still)
                return evaluator.error(*pair).abs().mean()

            return error
        options = self.options
        own: dict[str, dict[str, Any]] = {
            "ncc": {"window": options.window},
            "mi": {"bins": options.bins},
            "mind": {"radius": options.radius, "dilation": options.dilation},
        }
        measure = loss_function(options.similarity, **own.get(options.similarity, {}))
        limits = [(float(image.min()), float(image.max())) for image in (fixed, moving)]

        def scaled(image: "Tensor", low: float, high: float) -> "Tensor":
            return (image - low) / (high - low)

        still = scaled(fixed, *limits[0])
        return lambda warped: measure(still, scaled(warped, *limits[1]))
