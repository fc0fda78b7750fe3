"""What every method that is trained shares: one way to train, to keep the weights and to read them again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modalign.errors import ConfigError, ModalignError
from modalign.methods.base import Context, Method

if TYPE_CHECKING:
    from torch import nn

    from modalign.training.data import Batch
    from modalign.training.loop import Batches, Networks, Phases
    from modalign.training.options import TrainingOptions


class TrainedMethod(Method):
    """A method with a network that is kept as ``weights.pt`` in the folder of its model."""

    options: Any

    def __init__(self, options: Mapping[str, Any] | None = None, dimension: int = 3, context: Context | None = None):
        super().__init__(options, dimension, context)
        crop = getattr(self.options, "crop", None)
        if crop is not None and len(crop) != dimension:
            message = f"method {self.name} has crop {list(crop)}, and works in {dimension} dimensions"
            raise ConfigError(f"{message}: give one number per axis, or crop: null for whole images")
        self._loaded: tuple[nn.Module, dict[str, Any]] | None = None

    def _network(self) -> "nn.Module":
        """The network that aligns, with weights as drawn before training."""
        raise NotImplementedError

    @property
    def _model(self) -> Path:
        if self.context.model is None:
            raise ModalignError("training needs a folder for the weights: name it as the model")
        return self.context.model

    @property
    def _state(self) -> Path:
        """The folder of an unfinished training."""
        return self.context.state or self._model / "state"

    def _descend(
        self,
        networks: "Networks",
        losses: "Callable[[Networks, Batch, int], Phases]",
        data: "Batches",
        digest: str,
        *,
        options: "TrainingOptions | None" = None,
        stage: str = "",
        **more: Any,
    ) -> dict[str, Any]:
        """Run the training loop, or continue a run that was killed, and return what to put on record.

        Args:
            networks: all that learns or is kept in checkpoints.
            losses: the terms of each step, see :func:`modalign.training.loop.fit`.
            data: batches.
            digest: of the data, by which a checkpoint of another training is told.
            options: of this run, where they aren't those of the method.
            stage: names one run of several; they keep their states apart.
            more: further arguments of :func:`~modalign.training.loop.fit`.
        """
        from modalign.digest import code_digest
        from modalign.training.checkpoint import fingerprint
        from modalign.training.loop import fit

        context, used = self.context, options or self.options
        settings = {**self.options.model_dump(), **used.model_dump(), "stage": stage, "dimension": self.dimension}
        settings |= {"threads": context.threads, "device": context.device}
        settings.pop("checkpoint_seconds")
        return fit(
            networks,
            losses,
            data,
            used,
            self._state / stage,
            fingerprint(settings, digest, code_digest(type(self).__module__), context.seed),
            seed=context.seed,
            device=context.device,
            threads=context.threads,
            **more,
        )

    def _save(self, network: "nn.Module", **about: Any) -> None:
        """Write the network's weights, and what else is needed to use them."""
        from modalign.training.registration import save_weights

        about |= {"options": self.options.model_dump(mode="json"), "dimension": self.dimension}
        save_weights(self._model / "weights.pt", network.state_dict(), **about)

    @property
    def _ready(self) -> "tuple[Any, dict[str, Any]]":
        """The trained network on its device, read once, and what was written beside its weights."""
        from modalign.training.registration import load_weights

        if self._loaded is None:
            if self.context.model is None:
                raise ConfigError(f"method {self.name} has to be trained first: name the folder of its model")
            about = load_weights(self.context.model / "weights.pt")
            if about["dimension"] != self.dimension:
                message = f"{self.context.model} was trained in {about['dimension']} dimensions"
                raise ConfigError(f"{message}, not in {self.dimension}: train it again")
            network = self._network()
            network.load_state_dict(about["weights"])
            self._loaded = network.to(self.context.device).eval(), about
        return self._loaded
