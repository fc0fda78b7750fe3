"""What methods share that learn to predict a deformation: options, training, alignment, translation beforehand."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from modalign.cases import Alignment, Case, CaseStore
from modalign.errors import ConfigError, ModalignError
from modalign.methods.base import Context, Method
from modalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from modalign.training.loop import Networks
    from modalign.training.registration import RegistrationData

    Terms = Callable[[Networks, Tensor, Tensor, Tensor | None, int], dict[str, Tensor]]


class RegistrationOptions(TrainingOptions):
    """Settings of every learned registration; intensities are scaled to [0, 1] before weights apply."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Per value of `preset`, defaults of other options."""
    smoothness: ClassVar[Mapping[str, float]] = {}
    """Per similarity, the default of `smoothness_weight`."""

    translator: bool = Field(
        False, description="translate the fixed image first, by the method that `needs` names as translator"
    )
    similarity: Literal["mse", "ncc", "mi", "mind"] = Field("mind", description="mse only after a translation")
    similarity_weight: float = Field(1.0, gt=0, description="weight of the similarity")
    smoothness_weight: float | None = Field(
        None, ge=0, description="weight of the mean squared gradient, averaged over axes; null = by similarity"
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

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        preset = dict(cls.presets.get(given.get("preset", "paper"), {}))
        if "steps" in given or "epochs" in given:
            preset = {k: v for k, v in preset.items() if k not in ("steps", "epochs")}
        return {**preset, **given}

    @model_validator(mode="after")
    def _fitting_similarity(self) -> "RegistrationOptions":
        if self.similarity == "mse" and not self.translator:
            raise ValueError("similarity mse compares intensities of one contrast: add translator: true, or use mind")
        if self.window % 2 == 0:
            raise ValueError(f"window has to be odd, not {self.window}")
        return self

    @property
    def weight_of_smoothness(self) -> float:
        """`smoothness_weight`, or what goes with the similarity."""
        return self.smoothness[self.similarity] if self.smoothness_weight is None else self.smoothness_weight

    def similarity_loss(self) -> "Callable[..., Tensor]":
        """The chosen similarity with its settings: ``loss(fixed, warped, mask)``."""
        from modalign.similarity.losses import loss_function

        own: dict[str, dict[str, Any]] = {
            "ncc": {"window": self.window},
            "mi": {"bins": self.bins},
            "mind": {"radius": self.radius, "dilation": self.dilation},
        }
        return loss_function(self.similarity, **own.get(self.similarity, {}))


class LearnedRegistration(Method):
    """A network that predicts the field of a pair, trained without known fields.

    A subclass says which network (`_network`), what it descends (`_terms`), and which of its outputs is the field
    (`_field`). Without a translator, the images differ in contrast and the similarity has to cope (mind, mi, ncc). With
    one, the fixed image is first translated to the moving contrast, and mse will do.
    """

    kind = "registration"
    presets_3d: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What differs from the presets for volumes."""

    def __init__(self, options: Any = None, dimension: int = 3, context: Context | None = None):
        if dimension == 3:
            options = {**self.presets_3d.get((options or {}).get("preset", "paper"), {}), **(options or {})}
        super().__init__(options, dimension, context)
        named = "translator" in self.context.needs
        if context is not None and named != self.options.translator:
            wanted = (
                "add needs: {translator: <a translation method>}" if not named else "add the option translator: true"
            )
            raise ConfigError(f"method {self.name}: option translator is {self.options.translator}: {wanted}")
        self._loaded: tuple[nn.Module, dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        """The method's name in configurations."""
        return type(self).__module__.rsplit(".", 1)[-1]

    def _network(self) -> "nn.Module":
        raise NotImplementedError

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

        record = self._fit(store.dataset, data, {name: network}, terms, lambda step: (name,), self.options)
        self._save(network, data)
        return record

    def _start(self, store: CaseStore) -> "tuple[RegistrationData, nn.Module]":
        from modalign.training import registration
        from modalign.training.data import Sampling
        from modalign.training.devices import make_deterministic

        options, context = self.options, self.context
        if context.model is None:
            raise ModalignError("training needs a folder for the weights: name it as the model")
        state = context.state or context.model / "state"
        sampling = Sampling(self.dimension, options.batch, options.crop, options.masked, flips=options.flips)
        translator = context.needs.get("translator")
        fraction = options.train_fraction
        data = registration.registration_data(store, sampling, context.seed, self.name, state, translator, fraction)
        make_deterministic(context.seed, context.device, context.threads, store.dataset, self.name, "initial weights")
        return data, self._network()

    def _fit(
        self,
        dataset: str,
        data: "RegistrationData",
        networks: "Mapping[str, nn.Module]",
        terms: "Terms",
        learning: Callable[[int], tuple[str, ...]],
        options: TrainingOptions,
        stage: str = "",
    ) -> dict[str, Any]:
        """One run of the training loop; `learning` names the networks that a step updates, `stage` one run of several.

        The stages of a training keep their states apart, so that each continues where it was killed.
        """
        from modalign.digest import code_digest
        from modalign.training import checkpoint, registration
        from modalign.training.loop import Networks, Phases, fit

        context, deform_voxels = self.context, self.options.deform_voxels
        assert context.model is not None
        state = (context.state or context.model / "state") / stage

        def losses(networks: Networks, batch: "dict[str, Tensor]", step: int) -> Phases:
            moving, fixed, mask = registration.prepared(batch, data.limits)
            if deform_voxels > 0:
                purpose = (dataset, self.name, *([stage] if stage else []), "deform", str(step))
                moving = registration.randomly_deformed(moving, deform_voxels, context.seed, *purpose)
            yield learning(step), terms(networks, moving, fixed, mask, step)

        def validate(networks: Networks) -> float:
            def loss(batch: "dict[str, Tensor]") -> "Tensor":
                parts = terms(networks, *registration.prepared(batch, data.limits), 0)
                return sum(parts.values())  # type: ignore[return-value]

            assert data.validation is not None
            return registration.validation_loss(loss, data.validation, context.device)

        settings = {**self.options.model_dump(), **options.model_dump(), "stage": stage, "dimension": self.dimension}
        settings |= {"threads": context.threads, "device": context.device}
        settings.pop("checkpoint_seconds")
        code = code_digest(type(self).__module__)
        return fit(
            networks,
            losses,
            data.train,
            options,
            state,
            checkpoint.fingerprint(settings, data.digest, code, context.seed),
            seed=context.seed,
            device=context.device,
            threads=context.threads,
            validate=validate if data.validation is not None else None,
        )

    def _save(self, network: "nn.Module", data: "RegistrationData") -> None:
        from modalign.training.registration import save_weights

        assert self.context.model is not None
        about = {"options": self.options.model_dump(mode="json"), "dimension": self.dimension}
        save_weights(self.context.model / "weights.pt", network.state_dict(), **about, limits=dict(data.limits))

    def align(self, case: Case) -> Alignment:
        """One pass of the network; the image is the original moving image in one linear interpolation."""
        import torch

        from modalign.training.registration import align_by_network

        device = self.context.device
        torch.set_num_threads(self.context.threads)
        if self._loaded is None:
            self._loaded = self._load(device)
        network, about = self._loaded

        def predict(moving: "Tensor", fixed: "Tensor") -> "Tensor":
            return self._field(network, moving, fixed)

        translator = self.context.needs.get("translator")
        return align_by_network(case, self.dimension, predict, about["limits"], device=device, translator=translator)

    def _load(self, device: str) -> "tuple[nn.Module, dict[str, Any]]":
        from modalign.training.registration import load_weights

        if self.context.model is None:
            raise ConfigError(f"method {self.name} has to be trained first: name the folder of its model")
        about = load_weights(self.context.model / "weights.pt")
        if about["dimension"] != self.dimension:
            message = f"{self.context.model} was trained in {about['dimension']} dimensions, not in {self.dimension}"
            raise ConfigError(f"{message}: train it again")
        network = self._network()
        network.load_state_dict(about["weights"])
        return network.to(device).eval(), about
