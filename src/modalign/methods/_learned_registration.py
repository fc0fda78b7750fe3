"""What methods share that learn to predict a deformation: options, training, alignment, translation beforehand."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from modalign.cases import INPUTS, Alignment, Case, CaseStore
from modalign.errors import ConfigError
from modalign.methods._trained import TrainedMethod
from modalign.methods.base import Context
from modalign.training.options import Misalignment, TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.training.loop import Networks
    from modalign.training.registration import RegistrationData

    Terms = Callable[[Networks, Tensor, Tensor, Tensor | None, int], dict[str, Tensor]]


class RegistrationOptions(TrainingOptions):
    """Settings of every learned registration; intensities are scaled to [0, 1] before weights apply."""

    smoothness: ClassVar[Mapping[str, float]] = {}
    """Per similarity, the default of `smoothness_weight`."""

    translator: bool = Field(
        False, description="translate the fixed image first, by the method that `needs` names as translator"
    )
    similarity: Literal["mae", "mse", "ncc", "mi", "mind"] = Field(
        "mind", description="mae and mse only after a translation"
    )
    similarity_weight: float = Field(1.0, gt=0, description="weight of the similarity")
    smoothness_weight: float | None = Field(
        None, ge=0, description="weight of the mean squared gradient, averaged over axes; null = by similarity"
    )
    blur_voxels: float = Field(
        0.0,
        ge=0,
        description="blur both images by a Gaussian before squared or absolute differences are taken; not in any "
        "paper. Interpolation between voxels blurs noise, which differences from a blurred translation reward: fields "
        "come to lie half-way between slices",
    )
    window: int = Field(9, ge=3, description="width of the local correlation's window in voxels (ncc), odd")
    bins: int = Field(23, ge=4, description="histogram bins (mi)")
    radius: int = Field(2, ge=0, description="half width of the patches in voxels (mind)")
    dilation: int = Field(2, ge=1, description="distance of the compared patches in voxels (mind)")
    masked: bool = Field(False, description="look at the similarity inside the fixed mask alone, in training")
    crop: tuple[int, ...] | None = Field(None, description="random crops in training, voxels per axis; null = whole")
    flips: bool = Field(False, description="mirror pairs at random along x and y in training")
    deform_voxels: float = Field(
        0.0, ge=0, description="in training, deform the moving image further: standard deviation in voxels"
    )
    misalign: Misalignment | None = Field(
        None,
        description="in training, turn, shift, scale and deform both images of a pair at random, as IMSE does where "
        "pairs come registered; {} takes its numbers, which are of (both | moving), rotation_deg, "
        "translation_half_fov, scale, sigma_voxels, alpha_voxels and nominal_size",
    )

    @model_validator(mode="after")
    def _fitting_similarity(self) -> "RegistrationOptions":
        if self.similarity in ("mae", "mse") and not self.translator:
            raise ValueError(
                f"similarity {self.similarity} compares intensities of one contrast: add translator: true, or use mind"
            )
        if self.blur_voxels > 0 and self.similarity not in ("mae", "mse"):
            raise ValueError(f"blur_voxels is for similarity mae and mse, not for {self.similarity}: leave it out")
        if self.window % 2 == 0:
            raise ValueError(f"window has to be odd, not {self.window}")
        return self

    @property
    def weight_of_smoothness(self) -> float:
        """`smoothness_weight`, or what goes with the similarity."""
        return self.smoothness[self.similarity] if self.smoothness_weight is None else self.smoothness_weight

    def similarity_loss(self) -> "Callable[..., Tensor]":
        """The chosen similarity with its settings: ``loss(fixed, warped, mask)``."""
        from modalign.similarity.filters import gaussian_mean
        from modalign.similarity.losses import loss_function

        own: dict[str, dict[str, Any]] = {
            "ncc": {"window": self.window},
            "mi": {"bins": self.bins},
            "mind": {"radius": self.radius, "dilation": self.dilation},
        }
        loss, blur = loss_function(self.similarity, **own.get(self.similarity, {})), self.blur_voxels
        if blur == 0:
            return loss

        def blurred(fixed: "Tensor", warped: "Tensor", mask: "Tensor | None") -> "Tensor":
            return loss(gaussian_mean(fixed, blur), gaussian_mean(warped, blur), mask)

        return blurred


class LearnedRegistration(TrainedMethod):
    """A network that predicts the field of a pair, trained without known fields.

    A subclass says which network (`_network`), what it descends (`_terms`), and which of its outputs is the field
    (`_field`). Without a translator, the images differ in contrast and the similarity has to cope (mind, mi, ncc). With
    one, the fixed image is first translated to the moving contrast, and mse will do.
    """

    kind = "registration"

    def __init__(self, options: Mapping[str, Any] | None = None, dimension: int = 3, context: Context | None = None):
        super().__init__(options, dimension, context)
        named = "translator" in self.context.needs
        if context is not None and named != self.options.translator:
            wanted = (
                "add needs: {translator: <a translation method>}" if not named else "add the option translator: true"
            )
            raise ConfigError(f"method {self.name}: option translator is {self.options.translator}: {wanted}")

    def _field(self, network: Any, moving: "Tensor", fixed: "Tensor") -> "Tensor":
        return network(moving, fixed)

    def _terms(
        self, network: Any, moving: "Tensor", fixed: "Tensor", mask: "Tensor | None", step: int
    ) -> "dict[str, Tensor]":
        """The weighted terms whose sum is descended; `step` only seeds what is random in them."""
        raise NotImplementedError

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the packed training split; the best weights on the validation split go to ``weights.pt``."""
        data, network = self._start(store)
        name = self.name

        def terms(
            networks: "Networks", moving: "Tensor", fixed: "Tensor", mask: "Tensor | None", step: int
        ) -> "dict[str, Tensor]":
            return self._terms(networks[name], moving, fixed, mask, step)

        record = self._fit(store, data, {name: network}, terms, lambda step: (name,))
        self._save(network, limits=dict(data.limits))
        return record

    def _start(self, store: CaseStore) -> "tuple[RegistrationData, nn.Module]":
        from modalign.training import registration
        from modalign.training.data import Sampling
        from modalign.training.devices import make_deterministic

        options, context = self.options, self.context
        sampling = Sampling(self.dimension, options.batch, options.crop, options.masked, flips=options.flips)
        translator = context.needs.get("translator")
        fraction = options.train_fraction
        data = registration.registration_data(
            store, sampling, context.seed, self.name, self._state, translator, fraction
        )
        make_deterministic(context.seed, context.device, context.threads, store.dataset, self.name, "initial weights")
        return data, self._network()

    def _fit(
        self,
        store: CaseStore,
        data: "RegistrationData",
        networks: "Mapping[str, nn.Module]",
        terms: "Terms",
        learning: Callable[[int], tuple[str, ...]],
        options: TrainingOptions | None = None,
        stage: str = "",
    ) -> dict[str, Any]:
        """One run of the training loop (a `stage` of several); `learning` names the networks that a step updates."""
        import torch

        from modalign.training import registration
        from modalign.training.loop import Networks, Phases
        from modalign.training.misalignment import misaligned

        context, deform_voxels, misalign = self.context, self.options.deform_voxels, self.options.misalign
        purpose = (store.dataset, self.name, *([stage] if stage else []))
        # The images of a data set that networks learn from have one voxel size, or nearly so.
        spacing: list[float] = []
        if misalign is not None:
            spacing = list(map(float, store.load(store.ids(["train"])[0], INPUTS).fixed.spacing))

        def losses(networks: Networks, batch: "dict[str, Tensor]", step: int) -> Phases:
            moving, fixed, mask = registration.prepared(batch, data.limits)
            if misalign is not None:
                moving, fixed, mask = misaligned(
                    moving, fixed, mask, misalign, spacing, context.seed, *purpose, "misalign", str(step)
                )
            if deform_voxels > 0:
                moving = registration.randomly_deformed(
                    moving, deform_voxels, context.seed, *purpose, "deform", str(step)
                )
            yield learning(step), terms(networks, moving, fixed, mask, step)

        def validate(networks: Networks) -> float:
            def loss(batch: "dict[str, Tensor]") -> "Tensor":
                parts = terms(networks, *registration.prepared(batch, data.limits), 0)
                return torch.stack(list(parts.values())).sum()

            assert data.validation is not None
            return registration.validation_loss(loss, data.validation, context.device)

        judge = validate if data.validation is not None else None
        return self._descend(networks, losses, data.train, data.digest, options=options, stage=stage, validate=judge)

    def align(self, case: Case) -> Alignment:
        """One pass of the network; the image is the original moving image in one linear interpolation."""
        import torch

        from modalign.training.registration import align_by_network

        torch.set_num_threads(self.context.threads)
        network, about = self._ready

        def predict(moving: "Tensor", fixed: "Tensor") -> "Tensor":
            return self._field(network, moving, fixed)

        context = self.context
        translator = context.needs.get("translator")
        return align_by_network(
            case, self.dimension, predict, about["limits"], device=context.device, translator=translator
        )
