"""VoxelMorph: a U-Net that learns to predict the deformation of a pair in one pass."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from modalign.cases import Alignment, Case, CaseStore
from modalign.errors import ConfigError
from modalign.methods.base import Context, Method
from modalign.training.options import TrainingOptions

if TYPE_CHECKING:
    from torch import Tensor

    from modalign.networks.voxelmorph import VoxelMorph as Network
    from modalign.training.data import Batch

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"epochs": 100, "batch": 10, "learning_rate": 1e-4, "schedule": "multistep"},
    "small": {"steps": 250, "batch": 6, "learning_rate": 2e-3, "schedule": "linear", "deform_voxels": 2.0},
    "imse2d": {"epochs": 100, "batch": 8, "learning_rate": 1e-4, "int_steps": 0},
    "imse3d": {"epochs": 600, "batch": 1, "learning_rate": 1e-4, "int_steps": 0},
    "imse3d-pure": {"epochs": 200, "batch": 2, "learning_rate": 1e-4, "int_steps": 0},
}
"""Settings that come with a network's size, each overridden by the option of its name. `paper` is the training of RbG;
`imse*` that of IMSE; `small` is for demonstrations and tests."""
PRESETS_3D: dict[str, dict[str, Any]] = {"paper": {"batch": 1}, "small": {"batch": 2, "radius": 1}}
"""What differs for volumes. On a single CPU thread, PyTorch takes longer for one volume than for two."""

SMOOTHNESS = {"mse": 0.01, "ncc": 1.0, "mi": 2.0, "mind": 0.5}


class VoxelMorph(Method):
    """Trained on the similarity of the warped moving image to the fixed one, and the smoothness of the deformation.

    Without a translator, the images differ in contrast and the similarity has to cope (mind, mi, ncc). With one, the
    fixed image is first translated to the moving contrast, and mse will do.
    """

    label = "VoxelMorph"
    kind = "registration"
    dimensions = frozenset({2, 3})
    source = "Balakrishnan et al. 2019 (network, loss); RbG and IMSE (training for images of two modalities)"

    class Options(TrainingOptions):
        """Settings of VoxelMorph."""

        preset: Literal["paper", "small", "imse2d", "imse3d", "imse3d-pure"] = Field(
            "paper", description="channels of the U-Net, and defaults for training and integration that go with them"
        )
        encoder: tuple[int, ...] | None = Field(None, description="channels downwards, instead of the preset's")
        decoder: tuple[int, ...] | None = Field(None, description="channels upwards, instead of the preset's")
        int_steps: int = Field(7, ge=0, le=12, description="squarings of the integration; 0 = the displacement itself")
        int_downsize: int = Field(2, ge=1, le=4, description="how much coarser the velocity is than the image")
        translator: bool = Field(
            False, description="translate the fixed image first, by the method that `needs` names as translator"
        )
        similarity: Literal["mse", "ncc", "mi", "mind"] = Field("mind", description="mse only after a translation")
        similarity_weight: float = Field(1.0, gt=0, description="weight of the similarity")
        smoothness_weight: float | None = Field(
            None,
            ge=0,
            description="weight of the mean squared gradient, averaged over axes; null = 0.01 (mse), 1 (ncc), 2 (mi), "
            "0.5 (mind). RbG sums over axes, so its 0.5 is 1.0 here in 2D",
        )
        regularise: Literal["velocity", "displacement"] = Field(
            "velocity", description="smooth the velocity before integration (VoxelMorph), or the displacement (RbG)"
        )
        window: int = Field(9, ge=3, description="width of the local correlation's window in voxels (ncc), odd")
        bins: int = Field(23, ge=4, description="histogram bins (mi)")
        radius: int = Field(2, ge=0, description="half width of the patches in voxels (mind)")
        dilation: int = Field(2, ge=1, description="distance of the compared patches in voxels (mind)")
        masked: bool = Field(False, description="look at the similarity inside the fixed mask alone, in training")
        crop: tuple[int, ...] | None = Field(
            None, description="random crops in training, voxels per axis; null = whole"
        )
        flips: bool = Field(False, description="mirror pairs at random along x and y in training")
        deform_voxels: float = Field(
            0.0, ge=0, description="in training, deform the moving image further: standard deviation in voxels"
        )

        @model_validator(mode="before")
        @classmethod
        def _from_preset(cls, given: Any) -> Any:
            preset = dict(PRESETS.get(given.get("preset", "paper"), {}))
            if "steps" in given or "epochs" in given:
                preset = {k: v for k, v in preset.items() if k not in ("steps", "epochs")}
            return {**preset, **given}

        @model_validator(mode="after")
        def _fitting(self) -> "VoxelMorph.Options":
            if self.similarity == "mse" and not self.translator:
                raise ValueError(
                    "similarity mse compares intensities of one contrast: add translator: true, or use mind"
                )
            if self.preset == "small" and (self.int_steps == 0 or self.int_downsize != 2):
                raise ValueError("preset small needs integration at half resolution: int_steps above 0, int_downsize 2")
            if self.window % 2 == 0:
                raise ValueError(f"window has to be odd, not {self.window}")
            return self

    options: Options

    def __init__(self, options: Any = None, dimension: int = 3, context: Context | None = None):
        if dimension == 3:
            options = {**PRESETS_3D.get((options or {}).get("preset", "paper"), {}), **(options or {})}
        super().__init__(options, dimension, context)
        named = "translator" in self.context.needs
        if context is not None and named != self.options.translator:
            wanted = (
                "add needs: {translator: <a translation method>}" if not named else "add the option translator: true"
            )
            raise ConfigError(f"method voxelmorph: option translator is {self.options.translator}: {wanted}")
        self._loaded: tuple[Network, dict[str, Any]] | None = None

    def train(self, store: CaseStore) -> dict[str, Any]:
        """Train on the packed training split; the best weights on the validation split go to ``weights.pt``."""
        from modalign.digest import code_digest
        from modalign.errors import ModalignError
        from modalign.training import checkpoint, registration
        from modalign.training.data import Sampling
        from modalign.training.devices import make_deterministic
        from modalign.training.loop import Networks, Phases, fit

        options, context = self.options, self.context
        if context.model is None:
            raise ModalignError("training needs a folder for the weights: name it as the model")
        state, device = context.state or context.model / "state", context.device
        sampling = Sampling(self.dimension, options.batch, options.crop, options.masked, flips=options.flips)
        translator = context.needs.get("translator")
        data = registration.registration_data(store, sampling, context.seed, "voxelmorph", state, translator)
        make_deterministic(context.seed, device, context.threads, store.dataset, "voxelmorph", "initial weights")
        network = self._network()

        def losses(networks: Networks, batch: "Batch", step: int) -> Phases:
            moving, fixed, mask = registration.prepared(batch, data.limits)
            if options.deform_voxels > 0:
                purpose = (store.dataset, "voxelmorph", "deform", str(step))
                moving = registration.randomly_deformed(moving, options.deform_voxels, context.seed, *purpose)
            yield ("voxelmorph",), self._terms(networks["voxelmorph"], moving, fixed, mask)

        def validate(networks: Networks) -> float:
            def loss(batch: "Batch") -> "Tensor":
                terms = self._terms(networks["voxelmorph"], *registration.prepared(batch, data.limits))
                return terms["similarity"] + terms["smoothness"]

            assert data.validation is not None
            return registration.validation_loss(loss, data.validation, device)

        code = code_digest("modalign.methods.voxelmorph")
        settings = {**options.model_dump(), "dimension": self.dimension, "threads": context.threads, "device": device}
        settings = {k: v for k, v in settings.items() if k != "checkpoint_seconds"}
        record = fit(
            {"voxelmorph": network},
            losses,
            data.train,
            options,
            state,
            checkpoint.fingerprint(settings, data.digest, code, context.seed),
            seed=context.seed,
            device=device,
            threads=context.threads,
            validate=validate if data.validation is not None else None,
        )
        about = {"options": options.model_dump(mode="json"), "dimension": self.dimension, "limits": dict(data.limits)}
        registration.save_weights(context.model / "weights.pt", network.state_dict(), **about)
        return record

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
            return network(moving, fixed)[0]

        translator = self.context.needs.get("translator")
        return align_by_network(case, self.dimension, predict, about["limits"], device=device, translator=translator)

    def _terms(self, network: Any, moving: "Tensor", fixed: "Tensor", mask: "Tensor | None") -> "dict[str, Tensor]":
        from modalign.similarity.losses import loss_function
        from modalign.similarity.regularisation import gradient_l2
        from modalign.spatial.warp import warp

        options = self.options
        own = {
            "ncc": {"window": options.window},
            "mi": {"bins": options.bins},
            "mind": {"radius": options.radius, "dilation": options.dilation},
        }
        similarity = loss_function(options.similarity, **own.get(options.similarity, {}))
        field, velocity = network(moving, fixed)
        on_velocity = options.regularise == "velocity" and options.int_steps > 0
        # A gradient is the same number on the coarse grid; VoxelMorph multiplies its penalty there by the factor.
        smoothness = gradient_l2(velocity) * options.int_downsize if on_velocity else gradient_l2(field)
        weight = options.smoothness_weight
        weight = SMOOTHNESS[options.similarity] if weight is None else weight
        return {
            "similarity": options.similarity_weight * similarity(fixed, warp(moving, field), mask),
            "smoothness": weight * smoothness,
        }

    def _network(self) -> "Network":
        from dataclasses import replace

        from modalign.networks.voxelmorph import ARCHITECTURES
        from modalign.networks.voxelmorph import VoxelMorph as Network

        options, architecture = self.options, ARCHITECTURES[self.options.preset]
        if options.encoder is not None:
            architecture = replace(architecture, encoder=options.encoder)
        if options.decoder is not None:
            architecture = replace(architecture, decoder=options.decoder)
        return Network(self.dimension, architecture, options.int_steps, options.int_downsize)

    def _load(self, device: str) -> "tuple[Network, dict[str, Any]]":
        from modalign.training.registration import load_weights

        if self.context.model is None:
            raise ConfigError("method voxelmorph has to be trained first: name the folder of its model")
        about = load_weights(self.context.model / "weights.pt")
        if about["dimension"] != self.dimension:
            message = f"{self.context.model} was trained in {about['dimension']} dimensions, not in {self.dimension}"
            raise ConfigError(f"{message}: train it again")
        network = self._network()
        network.load_state_dict(about["weights"])
        return network.to(device).eval(), about
