"""A small U-Net that segments axial slices of the moving modality, trained on its own scans and contours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import torch
from torch import Tensor, nn
from torch.nn import functional

from modalign.cases import CaseStore
from modalign.digest import code_digest
from modalign.errors import DataError
from modalign.networks.voxelmorph import pad_to_multiple
from modalign.seeds import generator
from modalign.segmentation import Segment, SegmentationOptions
from modalign.training import checkpoint
from modalign.training.devices import make_deterministic
from modalign.training.loop import Networks, Phases, fit
from modalign.training.options import TrainingOptions
from modalign.training.registration import load_weights, save_weights
from modalign.volumes import Volume

NAME = "small U-Net trained on the unaligned scans"
SHIFT_VOXELS = 3


def _block(channels_in: int, channels: int) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels, 3, padding=1)
    return nn.Sequential(conv, nn.InstanceNorm2d(channels, affine=True), nn.LeakyReLU(0.1))


class Segmenter(nn.Module):
    """A U-Net of four levels (Ronneberger et al. 2015): label logits, (B, 1, X, Y) to (B, labels + 1, X, Y)."""

    def __init__(self, labels: int, channels: int):
        super().__init__()
        self.encoder, self.decoder = nn.ModuleList(), nn.ModuleList()
        widths, last = (channels, 2 * channels, 4 * channels, 4 * channels), 1
        for width in widths:
            self.encoder.append(nn.Sequential(_block(last, width), _block(width, width)))
            last = width
        for width in widths[-2::-1]:
            self.decoder.append(_block(last + width, width))
            last = width
        self.head = nn.Conv2d(last, labels + 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits at the size of `images`, whatever that is."""
        shape, skips = images.shape[2:], []
        x = pad_to_multiple(images, 2 ** (len(self.encoder) - 1))
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else functional.max_pool2d(x, 2))
            skips.append(x)
        skips.pop()
        for block in self.decoder:
            x = block(torch.cat([functional.interpolate(x, scale_factor=2.0), skips.pop()], dim=1))
        return self.head(x)[..., : shape[0], : shape[1]]


class LabelledSlices:
    """Batches of axial slices of the moving scans and their label maps, by (seed, step) alone.

    Slices are shifted at random, and about half of them smoothed by a Gaussian of up to `blur_voxels`.
    """

    def __init__(self, store: CaseStore, batch: int, seed: int, blur_voxels: float = 0.0):
        images, labels = [], []
        for case in store.cases(["train"], ("fixed", "moving", "moving_labels")):
            if case.moving_labels is None:
                raise DataError(f"{store.folder}: case {case.id} has no labels of the moving scan to learn from")
            images.append(case.moving.data.transpose(2, 0, 1))
            labels.append(case.moving_labels.data.transpose(2, 0, 1))
        if not images:
            raise DataError(f"{store.folder} has no training cases: a segmenter has nothing to learn from")
        self.images = [np.asarray(slice_, np.float32) for volume in images for slice_ in volume]
        self.labels = [np.asarray(slice_, np.int64) for volume in labels for slice_ in volume]
        self.count, self.seed, self.dataset, self.blur = batch, seed, store.dataset, blur_voxels
        values = np.concatenate([volume.ravel() for volume in images])
        self.limits = (float(values.min()), float(values.max()))
        counts = np.bincount(
            np.concatenate([label.ravel() for label in self.labels]), minlength=max(store.label_names) + 1
        )
        # Most voxels are background; without weights, small structures would never be found.
        self.weights = torch.tensor((counts.max() / np.maximum(counts, 1)) ** 0.4, dtype=torch.float32)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self.images) // self.count)

    def batch(self, step: int) -> dict[str, Tensor]:
        """``image`` (B, 1, X, Y) between 0 and 1, and ``labels`` (B, X, Y)."""
        rng = generator(self.seed, self.dataset, "segmenter", str(step))
        shape = np.max([image.shape for image in self.images], axis=0)
        pictures, maps = [], []
        for number in rng.integers(len(self.images), size=self.count):
            shift = rng.integers(-SHIFT_VOXELS, SHIFT_VOXELS + 1, size=2)
            pad = [(0, int(n - s)) for n, s in zip(shape, self.images[number].shape, strict=True)]
            picture = np.pad(self.images[number], pad, constant_values=self.limits[0])
            # Half of the draws are below zero, and leave the slice as it is.
            picture = ndi.gaussian_filter(picture, max(0.0, rng.uniform(-self.blur, self.blur)))
            pictures.append(np.roll(picture, shift, (0, 1)))
            maps.append(np.roll(np.pad(self.labels[number], pad), shift, (0, 1)))
        image = torch.from_numpy(np.stack(pictures))[:, None]
        return {"image": scaled(image, self.limits), "labels": torch.from_numpy(np.stack(maps))}


def scaled(images: Tensor, limits: tuple[float, float]) -> Tensor:
    """Intensities with the limits at 0 and 1, and nothing beyond."""
    return ((images - limits[0]) / (limits[1] - limits[0])).clamp(0, 1)


def soft_dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the mean soft Dice over the labels without the background; Milletari et al. 2016.

    Args:
        logits: (B, K, *S).
        labels: (B, *S), integers below K.
    """
    probabilities = logits.softmax(1)[:, 1:]
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probabilities)
    axes = (0, *range(2, logits.ndim))
    overlap = 2 * (probabilities * truth).sum(axes)
    return 1 - ((overlap + 1) / (probabilities.sum(axes) + truth.sum(axes) + 1)).mean()


def train(
    store: CaseStore, model: Path, options: SegmentationOptions, *, seed: int, device: str, threads: int
) -> dict[str, Any]:
    """Train on the training split; weights go to ``model/weights.pt``, a killed training continues."""
    names = store.label_names
    batches = LabelledSlices(store, options.batch, seed, options.blur_voxels)
    make_deterministic(seed, device, threads, store.dataset, "segmenter", "initial weights")
    count = max(names)
    network = Segmenter(count, options.channels)
    settings: dict[str, Any] = {**options.model_dump(include={"steps", "batch", "learning_rate"}), "schedule": "linear"}
    budget = TrainingOptions(**settings)

    def losses(networks: Networks, batch: dict[str, Tensor], step: int) -> Phases:
        logits = networks["segmenter"](batch["image"])
        entropy = functional.cross_entropy(logits.flatten(2), batch["labels"].flatten(1), batches.weights.to(logits))
        yield ("segmenter",), {"entropy": entropy, "dice": soft_dice_loss(logits, batch["labels"])}

    run = {**options.model_dump(), "threads": threads, "device": device}
    fingerprint = checkpoint.fingerprint(run, _digest(batches), code_digest(__name__), seed)
    state = model / "state"
    record = fit(
        {"segmenter": network},
        losses,
        batches,
        budget,
        state,
        fingerprint,
        seed=seed,
        device=device,
        threads=threads,
    )
    about = {"labels": count, "channels": options.channels, "limits": list(batches.limits)}
    save_weights(model / "weights.pt", network.state_dict(), **about)
    return record


def _digest(batches: LabelledSlices) -> str:
    import hashlib

    digest = hashlib.sha256()
    for image, labels in zip(batches.images, batches.labels, strict=True):
        digest.update(image.tobytes())
        digest.update(labels.tobytes())
    return digest.hexdigest()


def load(model: Path, *, device: str, threads: int, islands: float = 0.0) -> Segment:
    """The trained segmenter as a function, its findings :func:`without_islands`."""
    about: Mapping[str, Any] = load_weights(model / "weights.pt")
    torch.set_num_threads(threads)
    network = Segmenter(about["labels"], about["channels"])
    network.load_state_dict(about["weights"])
    network = network.to(device).eval()

    def segment(image: Volume, physical: np.ndarray) -> np.ndarray:
        stack = torch.from_numpy(np.ascontiguousarray(image.data, np.float32)).permute(2, 0, 1)[:, None]
        with torch.no_grad():
            logits = network(scaled(stack.to(device), tuple(about["limits"])))
        labels = logits.argmax(1).permute(1, 2, 0).cpu().numpy().astype(np.uint8)
        return without_islands(labels, islands)

    return segment


def without_islands(labels: np.ndarray, share: float) -> np.ndarray:
    """A label map (X, Y, Z) in which pieces of a structure below `share` of its largest one are background.

    Pieces hang together across faces, edges and corners. Both hip bones stay, a stray voxel, which would decide the
    Hausdorff distance, does not.
    """
    kept = labels.copy()
    for value in np.unique(labels[labels > 0]):
        pieces, _ = ndi.label(labels == value, np.ones((3, 3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        kept[np.isin(pieces, 1 + np.flatnonzero(sizes < share * sizes.max()))] = 0
    return kept
