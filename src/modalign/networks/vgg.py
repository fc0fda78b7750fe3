"""Features of VGG-19 (Simonyan and Zisserman 2015) for losses: trained on ImageNet if there is a file, else random."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.errors import ConfigError, DataError
from modalign.files import sha256
from modalign.seeds import derive_seed

log = logging.getLogger(__name__)

URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
SHA256 = "dcbb9e9d"
"""torchvision's weights, and the beginning of their digest."""

CONVOLUTIONS = (2, 2, 4, 4, 4)
"""Convolutions of each of the five blocks; a max-pooling by 2 leads from one to the next."""
CHANNELS = (1, 2, 4, 8, 8)
"""Channels of the blocks, in units of the width, 64."""
WIDTH = 64
LAYERS = tuple(f"conv{b}_{i}" for b, count in enumerate(CONVOLUTIONS, 1) for i in range(1, count + 1))
"""conv1_1, conv1_2, conv2_1, ..., conv5_4."""


def layer_channels(layers: Sequence[str], width: int = WIDTH) -> list[int]:
    """How many channels the features of these layers have."""
    return [CHANNELS[int(layer[4]) - 1] * width for layer in layers]


def check_layers(layers: Sequence[str]) -> None:
    """Raise :class:`ValueError` for a layer that VGG-19 doesn't have."""
    for layer in layers:
        if layer not in LAYERS:
            raise ValueError(f"VGG-19 has no layer {layer!r}; its layers are {', '.join(LAYERS)}")


class Vgg19(nn.Module):
    """The convolutions of VGG-19, up to the deepest of the named layers, frozen.

    Features are taken behind the ReLU of a layer, as in the released codes, where the ReLU works in place. Grey images
    stand for three equal channels, in -1..1, without ImageNet's mean and deviation.

    Args:
        layers: such as ``conv1_2``; their features come in this order.
        width: channels of the first block; only 64 fits trained weights.
    """

    def __init__(self, layers: Sequence[str], width: int = WIDTH):
        super().__init__()
        check_layers(layers)
        self.layers = tuple(layers)
        self.used = LAYERS[: 1 + max(LAYERS.index(layer) for layer in layers)]
        incoming = 3
        for layer, channels in zip(self.used, layer_channels(self.used, width), strict=True):
            self.add_module(layer, nn.Conv2d(incoming, channels, 3, padding=1))
            incoming = channels
        self.requires_grad_(False)

    def forward(self, images: Tensor, layers: Sequence[str] | None = None) -> list[Tensor]:
        """Features of grey images (B, 1, H, W): (B, C, H / 2^(block - 1), W / 2^(block - 1)) for each layer.

        `layers`, which are among those that the network was made for, leave out what lies deeper.
        """
        wanted = self.layers if layers is None else tuple(layers)
        found: dict[str, Tensor] = {}
        x = images
        for layer in self.used[: 1 + max(LAYERS.index(layer) for layer in wanted)]:
            x = functional.relu(self._convolve(layer, _pooled_before(layer, x)))
            found[layer] = x
        return [found[layer] for layer in wanted]

    def _convolve(self, layer: str, x: Tensor) -> Tensor:
        convolution = self.get_submodule(layer)
        assert isinstance(convolution, nn.Conv2d)
        weight = convolution.weight
        if layer == "conv1_1":
            weight = weight.sum(1, keepdim=True)  # three equal channels
        return functional.conv2d(x, weight, convolution.bias, padding=1)


def vgg19(layers: Sequence[str], file: Path | str | None, seed: int, width: int = WIDTH) -> Vgg19:
    """VGG-19 with the weights in `file`, or with random ones.

    Args:
        layers: whose features are wanted.
        file: torchvision's weights; None for seeded random ones.
        seed: of random weights.
        width: of the first block's channels, 64 for weights from a file.

    Raises:
        ConfigError: weights from a file for another width.
        DataError: the file is missing or is another one.
    """
    # The initial weights are replaced, but drawing them moves PyTorch's global generator.
    with torch.random.fork_rng(devices=[]):
        network = Vgg19(layers, width)
    if file is None:
        if width == WIDTH:
            log.warning(
                "losses compare features of a VGG-19 with seeded random weights, not those of the papers: fetch %s and "
                "name the file as features: {files: {vgg19: <path>}}",
                URL,
            )
        _randomise(network, derive_seed(seed, "features", "vgg19"))
    else:
        if width != WIDTH:
            raise ConfigError(f"trained VGG-19 weights need vgg_width {WIDTH}, not {width}")
        network.load_state_dict(_read(Path(file), network.used))
    return network.eval()


def describe(file: Path | str | None) -> str:
    """What the record says about the weights: ``random``, or the file's digest."""
    return "random" if file is None else f"ImageNet, SHA-256 {sha256(file)}"


def _read(path: Path, used: Sequence[str]) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError(f"{path} does not exist: fetch the VGG-19 weights from {URL}")
    found = sha256(path)
    if not found.startswith(SHA256):
        raise DataError(f"{path} has SHA-256 {found}, not {SHA256}...: fetch it again from {URL}")
    log.info("VGG-19 features: %s, SHA-256 %s", path, found)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    return from_torchvision(stored, used)


def from_torchvision(stored: dict[str, Tensor], used: Sequence[str] = LAYERS) -> dict[str, Tensor]:
    """torchvision's ``features.0.weight`` ... under the names of the layers."""
    numbers = sorted({int(name.split(".")[1]) for name in stored if name.startswith("features.")})
    pairs = dict(zip(LAYERS, numbers, strict=True))
    return {
        f"{layer}.{part}": stored[f"features.{pairs[layer]}.{part}"] for layer in used for part in ("weight", "bias")
    }


def _pooled_before(layer: str, x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 2) if layer.endswith("_1") and layer != "conv1_1" else x


def _randomise(network: Vgg19, seed: int, images: int = 4, side: int = 64) -> None:
    """Random weights, each channel standardised on seeded smooth images, layer after layer.

    With plain random weights the features of all places become alike with depth (cosines of 0.99 and above), and
    nothing could be matched by them.
    """
    random = torch.Generator().manual_seed(seed)
    x = sum(
        functional.interpolate(torch.randn(images, 1, n, n, generator=random), (side, side), mode="bicubic") / n**0.5
        for n in (4, 8, 16, 32)
    )
    assert isinstance(x, Tensor)
    x = (x / x.abs().amax((2, 3), keepdim=True)).clamp(-1, 1)
    for layer in network.used:
        convolution = network.get_submodule(layer)
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        x = _pooled_before(layer, x)
        with torch.no_grad():
            convolution.weight.normal_(0.0, (2 / convolution.weight[0].numel()) ** 0.5, generator=random)
            convolution.bias.zero_()
            x = network._convolve(layer, x)
            deviation, mean = torch.std_mean(x, (0, 2, 3))
            deviation = deviation.clamp(min=1e-6)
            convolution.weight /= deviation[:, None, None, None]
            convolution.bias -= mean / deviation
            x = functional.relu((x - mean[:, None, None]) / deviation[:, None, None])
