"""Every trained method of the papers' overlays: its published size, and one step on the smallest crop."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from modalign.training.loop import count_parameters

ROOT = Path(__file__).parents[1]


def _benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("paper_scale", ROOT / "benchmarks" / "paper_scale.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["paper_scale"] = module
    spec.loader.exec_module(module)
    return module


paper_scale = _benchmark()
PUBLISHED = {
    "rbg_stage1": {33_826_317},
    "rbg": {71_233},
    "registformer": {71_233},
    "lapirn": {923_748},
    "transmorph": {46_771_251},
    # slices, volumes
    "voxelmorph": {109_170, 327_331},
    # two generators of nine residual blocks
    "cyclegan": {2 * 11_365_633},
    "sc_cyclegan": {2 * 11_365_633},
}
"""Weights of the networks that align; of GANs without their discriminators."""


@pytest.mark.parametrize("overlay", ["rbg", "registformer"])
def test_networks_have_the_published_sizes(overlay):
    found: dict[str, set[int]] = {}
    for name, variant in paper_scale.trained_variants(overlay).items():
        method = paper_scale.build(variant)
        assert method.options.epochs is not None, name
        assert method.options.steps is None, name
        assert getattr(method.options, "blur_voxels", 0) == 0, name
        with torch.device("meta"):
            network = method._network()
        own = network.synthesis if variant.method == "rbg_stage1" else network
        found.setdefault(variant.method, set()).add(count_parameters(own))
    for method, sizes in found.items():
        assert sizes <= PUBLISHED.get(method, sizes), method
    expected = {"rbg", "rbg_stage1"} if overlay == "rbg" else {"registformer"}
    assert found.keys() >= expected | {"lapirn", "transmorph", "gradicon", "voxelmorph", "reggan", "unit", "munit"}


@pytest.mark.parametrize(
    ("overlay", "name", "size", "sizes"),
    [
        ("rbg", "rbg", (48, 48, 4), {"crop": (32, 32), "batch": 1}),
        ("rbg", "rbg-mind-contextual", (48, 48, 4), {"crop": (32, 32), "batch": 1}),
        ("registformer", "registformer-patchnce-l1", (48, 48, 4), {"crop": (32, 32), "batch": 1}),
        ("rbg", "rbg-field", (48, 48, 4), {"batch": 1}),
        ("rbg", "voxelmorph-3d-munit", (32, 32, 32), {}),
        ("rbg", "lapirn-3d-munit", (32, 32, 32), {}),
        ("imse", "imse-evaluator-2d", (32, 32, 4), {"batch": 1}),
        ("imse", "imse-evaluator-2d-bc", (32, 32, 4), {"batch": 1}),
        ("imse", "imse-sr-2d", (32, 32, 4), {"batch": 1}),
        ("imse", "voxelmorph-3d-cyclegan", (32, 32, 32), {}),
        ("cao2018", "single-modality-ct", (8, 8, 8), {"batch": 1, "patch": 44}),
        ("rbg-medium", "rbg-stage1-32", (48, 48, 4), {"crop": (32, 32), "batch": 1}),
        ("rbg-medium", "rbg", (48, 48, 4), {"crop": (32, 32), "batch": 1}),
        ("rbg-medium", "munit", (48, 48, 4), {"batch": 1}),
    ],
)
def test_a_step_with_the_options_of_the_overlay(tmp_path, overlay, name, size, sizes):
    """Those that take seconds; ``python benchmarks/paper_scale.py rbg --batch 1 --crop 64`` takes a step of each."""
    variant = paper_scale.trained_variants(overlay)[name]
    found = paper_scale.measure(variant, tmp_path, size, 1, "cpu", **sizes)
    assert math.isfinite(found["seconds"])
    assert found["seconds"] > 0
    assert found["batch"] == 1


def test_imse_overlay_has_the_settings_of_the_released_baselines():
    """Generators: 200 epochs of batches of 8, on whole slices. Mutual information: 30 bins (2D), 50 (3D), no air."""
    variants = paper_scale.trained_variants("imse")
    made = {name: paper_scale.build(variants[name]).options for name in ("cyclegan", "reggan")}
    for options in made.values():
        assert (options.epochs, options.steps, options.batch, options.crop) == (200, None, 8, None)
        assert (options.learning_rate, options.weight_decay, options.gan_weight) == (1e-4, 0, 1)
    assert (made["cyclegan"].cycle_weight, made["cyclegan"].identity_weight) == (10, 5)
    assert (made["reggan"].correction_weight, made["reggan"].smoothness_weight) == (20, 10)
    assert made["reggan"].reversed_order == "none"
    for name, similarity, bins, masked in (("2d", "mi", 30, True), ("3d", "mi", 50, True), ("2d", "ncc", 23, False)):
        options = paper_scale.build(variants[f"voxelmorph-{similarity}-{name}"]).options
        assert (options.preset, options.similarity, options.bins, options.masked) == (
            f"imse{name}",
            similarity,
            bins,
            masked,
        )
        assert options.misalign.of == "both"
