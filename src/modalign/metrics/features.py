"""Network features for FID, KID and LPIPS: from a pinned file of trained weights, or from seeded random weights.

Nothing is downloaded here. Features of random weights rank images too, but they are not the published measures:
whatever is computed from them is named ``fid_random``, ``kid_random``, ``lpips_random``.
"""

import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from modalign.errors import ConfigError, DataError
from modalign.files import replacing, sha256
from modalign.metrics import RANDOM_SUFFIX
from modalign.metrics.choices import check_option
from modalign.seeds import derive_seed

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

INCEPTION_SIZE = 299
RANDOM_SIZE = 96
RANDOM_SCALE = 25.0
"""Brings random Inception features to the magnitude of trained ones, which KID's kernel is made for."""


class Weights(NamedTuple):
    """A published file of weights; `sha256` is the beginning of its digest, which is also part of its name."""

    url: str
    sha256: str


PUBLISHED: dict[str, Weights] = {
    "inception": Weights(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    "alexnet": Weights("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", "7be5be79"),
    "vgg16": Weights("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
    "vgg19": Weights("https://download.pytorch.org/models/vgg19-dcbb9e9d.pth", "dcbb9e9d"),
}
"""The weights behind the published measures; those of VGG-19 are for the losses of methods."""


@dataclass(frozen=True)
class FeatureSource:
    """Where features come from.

    Attributes:
        kind: ``random`` or ``pretrained``.
        files: weights by network (``inception``, ``alexnet``, ``vgg16``); only ``pretrained`` reads them.
        sha256: expected digests by network, whole or their beginning; by default those of :data:`PUBLISHED`.
        seed: of random weights.
        image_size: slices are resized to this for Inception; pretrained features need 299.
        max_slices: take at most this many slices, evenly spread over all, for FID and KID.
        cache: folder to keep the features of reference slices in, None to keep none.
        device: ``cpu`` or ``cuda``.
        batch_size: slices at a time.
    """

    kind: Literal["random", "pretrained"] = "random"
    files: Mapping[str, Path | str] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    image_size: int | None = None
    max_slices: int | None = None
    cache: Path | str | None = None
    device: str = "cpu"
    batch_size: int = 32

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> "FeatureSource":
        """The source that a configuration describes.

        Raises:
            ConfigError: a key or a value that there isn't.
        """
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise ConfigError(f"features have no setting {unknown[0]!r}; the settings are: {', '.join(known)}")
        return cls(**given)

    def __post_init__(self) -> None:
        if self.kind not in ("random", "pretrained"):
            raise ConfigError(f"features {self.kind!r} are not known; write 'random' or 'pretrained'")
        unknown = sorted({*self.files, *self.sha256} - set(PUBLISHED))
        if unknown:
            raise ConfigError(f"no network {unknown[0]!r} gives features; the networks are: {', '.join(PUBLISHED)}")
        if self.kind == "pretrained" and self.image_size not in (None, INCEPTION_SIZE):
            raise ConfigError(f"pretrained Inception features need image_size {INCEPTION_SIZE}, not {self.image_size}")
        if self.size < 75:
            raise ConfigError(f"Inception features need an image_size of 75 or more, not {self.size}")
        if self.max_slices is not None and self.max_slices < 2:
            raise ConfigError(f"max_slices has to be 2 or more, not {self.max_slices}")

    @property
    def size(self) -> int:
        """The side, in pixels, that slices are resized to for Inception."""
        return self.image_size or (RANDOM_SIZE if self.kind == "random" else INCEPTION_SIZE)

    @property
    def suffix(self) -> str:
        """What the names of measures end with."""
        return RANDOM_SUFFIX if self.kind == "random" else ""

    def inception(self, slices: np.ndarray, keep: bool = False) -> np.ndarray:
        """Inception-v3 features after the last pooling, with the network of pytorch-fid.

        Args:
            slices: 8-bit slices (N, H, W), taken as grey RGB images.
            keep: read and write them in the cache folder.

        Returns:
            (N, 2048), float32.
        """
        key = self._key(slices)
        if key in self._memory:
            return self._memory[key]
        path = Path(self.cache) / f"inception-{key}.npy" if self.cache and keep else None
        if path and path.is_file():
            features = np.load(path)
        else:
            features = self._compute_inception(slices)
            if path:
                with replacing(path) as temporary, temporary.open("wb") as file:
                    np.save(file, features)
        self._memory[key] = features
        return features

    def _compute_inception(self, slices: np.ndarray) -> np.ndarray:
        import torch

        batches = []
        with torch.inference_mode():
            for start in range(0, len(slices), self.batch_size):
                batch = torch.from_numpy(slices[start : start + self.batch_size]).to(self.device).float() / 255
                rgb = batch[:, None].expand(-1, 3, -1, -1)
                sized = torch.nn.functional.interpolate(rgb, size=(self.size, self.size), mode="bilinear")
                batches.append(self._inception(sized * 2 - 1).cpu().numpy())
        scale = RANDOM_SCALE if self.kind == "random" else 1.0
        return np.concatenate(batches) * np.float32(scale)

    def lpips(self, a: np.ndarray, b: np.ndarray, net: str) -> np.ndarray:
        """LPIPS between grey slices (N, H, W) in -1..1, (N,); `net` is ``alexnet`` or ``vgg16``."""
        import torch

        values = []
        with torch.inference_mode():
            for start in range(0, len(a), self.batch_size):
                pair = (torch.from_numpy(x[start : start + self.batch_size]).to(self.device) for x in (a, b))
                rgb = (x.float()[:, None].expand(-1, 3, -1, -1) for x in pair)
                values.append(self._lpips(net)(*rgb).flatten().cpu().numpy())
        return np.concatenate(values)

    @cached_property
    def _memory(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _networks(self) -> dict[str, Any]:
        return {}

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {}

    @cached_property
    def _inception(self) -> "torch.nn.Module":
        import torch

        with _own_random_state():
            network = _inception_network()
        if self.kind == "random":
            _randomise(network, derive_seed(self.seed, "features", "inception"))
        else:
            network.load_state_dict(self._read("inception"))
        network.fc = torch.nn.Identity()
        return network.eval().to(self.device)

    def _lpips(self, net: str) -> Any:
        check_option("lpips", "net", net)
        if net not in self._networks:
            network = _lpips_network(net)
            if self.kind == "random":
                _randomise(network.net, derive_seed(self.seed, "features", net))
            else:
                weights = self._read(net)
                # lpips groups the layers of torchvision's `features` into slices, and keeps their numbers.
                own = {name: weights["features." + name.split(".", 1)[1]] for name in network.net.state_dict()}
                network.net.load_state_dict(own)
            self._networks[net] = network.eval().to(self.device)
        return self._networks[net]

    def _read(self, network: str) -> dict[str, "torch.Tensor"]:
        """Weights from the user's file, once its digest is right."""
        import torch

        published, path = PUBLISHED[network], self._file(network)
        expected, found = self.sha256.get(network, published.sha256), sha256(path)
        if not found.startswith(expected):
            raise DataError(f"{path} has SHA-256 {found}, not {expected}...: fetch it again from {published.url}")
        log.info("%s features: %s, SHA-256 %s", network, path, found)
        return torch.load(path, map_location="cpu", weights_only=True)

    def _file(self, network: str) -> Path:
        published = PUBLISHED[network]
        if network not in self.files:
            raise ConfigError(f"pretrained features need the file of {network} weights: fetch {published.url}")
        path = Path(self.files[network])
        if not path.is_file():
            raise DataError(f"{path} does not exist: fetch the {network} weights from {published.url}")
        return path

    def _key(self, slices: np.ndarray) -> str:
        """Names features by all that they depend on."""
        if "inception" not in self._digests:
            weights = f"random {self.seed}" if self.kind == "random" else sha256(self._file("inception"))
            self._digests["inception"] = f"{weights} {self.size} {self.device}"
        digest = hashlib.sha256(f"{self._digests['inception']} {slices.shape}".encode())
        digest.update(np.ascontiguousarray(slices).tobytes())
        return digest.hexdigest()


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Building a network draws initial weights from PyTorch's global generator; leave that as it was."""
    import torch

    with torch.random.fork_rng(devices=[]):
        yield


def _lpips_network(net: str) -> Any:
    """The LPIPS network with the trained linear layers of the lpips package; its trunk has no weights yet."""
    import lpips

    with _own_random_state(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # lpips calls torchvision in a deprecated way
        return lpips.LPIPS(net={"alexnet": "alex", "vgg16": "vgg"}[net], pnet_rand=True, verbose=False)


def _inception_network() -> Any:
    """The Inception-v3 that FID is defined with, without weights.

    pytorch-fid exchanges nine blocks of torchvision's network. Its own constructor does the same, and then downloads.
    """
    from pytorch_fid import inception as fid
    from torchvision.models import inception_v3

    network: Any = inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    network.Mixed_5b = fid.FIDInceptionA(192, pool_features=32)
    network.Mixed_5c = fid.FIDInceptionA(256, pool_features=64)
    network.Mixed_5d = fid.FIDInceptionA(288, pool_features=64)
    network.Mixed_6b = fid.FIDInceptionC(768, channels_7x7=128)
    network.Mixed_6c = fid.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6d = fid.FIDInceptionC(768, channels_7x7=160)
    network.Mixed_6e = fid.FIDInceptionC(768, channels_7x7=192)
    network.Mixed_7b = fid.FIDInceptionE_1(1280)
    network.Mixed_7c = fid.FIDInceptionE_2(2048)
    return network


def _randomise(network: Any, seed: int) -> None:
    """He's initialisation: with PyTorch's own, features of so deep a network vanish (1e-8)."""
    import torch

    random = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data.normal_(0.0, (2 / fan_in) ** 0.5, generator=random)
            if module.bias is not None:
                module.bias.data.zero_()
