"""IMSE: the evaluator learns from one contrast what it then sees in another, and registration follows it."""

import numpy as np
import pytest
import torch
from ellipsoid_pairs import CONTRASTS, phantom_case, remaining_difference, remaining_error, write_store

from modalign.cases import CaseStore
from modalign.errors import ConfigError
from modalign.files import write_json
from modalign.methods.base import Context
from modalign.methods.free_displacement import FreeDisplacement
from modalign.methods.imse import Imse
from modalign.methods.imse_evaluator import ImseEvaluator
from modalign.methods.voxelmorph import VoxelMorph
from modalign.similarity.regularisation import gradient_l2
from modalign.spatial.warp import warp

MOTION = {"rotation_deg": 5.0, "translation_half_fov": (0.1, 0.1, 0.1), "scale": 0.08, "alpha_voxels": 0.0}
EASY = {
    "preset": "small",
    "steps": 400,
    "batch": 4,
    "blocks": 2,
    "control_points": (2, 10),
    "misalign": MOTION,
}


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    cases = [phantom_case(seed, (32, 32), 1.5, 8.0, 16, CONTRASTS) for seed in range(8)]
    store = write_store(tmp_path_factory.mktemp("slices"), {"train": cases[:6], "validation": cases[6:7]})
    return store, cases[7:]


@pytest.fixture(scope="module")
def trained(slices, tmp_path_factory):
    """An evaluator that learned from the moving images, and its folder."""
    folder = tmp_path_factory.mktemp("evaluator")
    method = ImseEvaluator(EASY, 2, Context(model=folder))
    record = method.train(slices[0])
    assert record["learned_from"] == "moving"
    return method


def test_the_evaluator_makes_the_moving_contrast_of_images_that_it_never_saw(slices, trained):
    assert remaining_difference(trained, slices[1]) < 0.8


def test_the_evaluator_sees_less_error_where_images_of_two_contrasts_lie_on_each_other(slices, trained):
    case = slices[1][0]
    limits = trained.limits

    def seen(volume, role):
        low, high = limits[role]
        return torch.from_numpy(2 * (volume.data - low) / (high - low) - 1).permute(2, 0, 1)[:, None].float()

    fixed, moving = seen(case.fixed, "fixed"), seen(case.moving, "moving")
    truth = torch.from_numpy(case.true_field[:2]).permute(3, 0, 1, 2)
    errors = [float(trained.error(fixed, warp(moving, truth + way)).abs().mean()) for way in (0, 1, 2, 4)]
    assert errors == sorted(errors)
    assert errors[0] < 0.75 * errors[-1]


def test_registration_that_descends_the_evaluators_error(slices, trained, tmp_path):
    store, unseen = slices
    method = Imse({"preset": "small", "steps": 100}, 2, Context(model=tmp_path, needs={"evaluator": trained}))
    before = {name: weights.clone() for name, weights in trained._ready[0].state_dict().items()}
    method.train(store)
    assert remaining_error(method, unseen) < 0.9
    assert all(torch.equal(weights, before[name]) for name, weights in trained._ready[0].state_dict().items())


def test_a_free_displacement_by_the_evaluator_and_by_measures(slices, trained):
    context = Context(needs={"evaluator": trained})
    some = [phantom_case(7, (32, 32), 1.5, 8.0, 4, CONTRASTS)]
    options = {"iterations": 60, "learning_rate": 0.3}
    assert remaining_error(FreeDisplacement({**options, "similarity": "imse"}, 2, context), some) < 0.95
    own = {**options, "similarity": "mind", "radius": 1, "smoothness_weight": 0.5}
    assert remaining_error(FreeDisplacement(own, 2, Context()), some) < 0.95


def test_half_the_difference_to_the_unchanged_image_is_what_is_learned(trained):
    """IMSE, equation 5: the label comes from the images before one of them is remapped."""
    images = torch.rand(3, 1, 24, 24) * 2 - 1
    changed, reference, label = trained._lesson(images, [1.0, 1.0, 1.0], "test")
    still = ImseEvaluator(
        {**EASY, "misalign": {"rotation_deg": 0, "translation_half_fov": (0, 0, 0), "scale": 0, "alpha_voxels": 0}}, 2
    )
    same = still._lesson(images, [1.0, 1.0, 1.0], "test")
    assert torch.allclose(same[1], images, atol=1e-3)
    assert float(same[2].abs().max()) == 0
    assert float((same[0] - images).abs().mean()) > 0.05
    # Undo the halving: the clean first image is the second one minus twice the label.
    first = reference - 2 * label
    assert float(label.abs().max()) <= 1
    assert float((first - changed).abs().mean()) > 0.05
    assert float((first - reference).abs().mean()) > 0.05


class Known(torch.nn.Module):
    """A registration network with a known answer that is not its own inverse."""

    def forward(self, moving, fixed):
        field = torch.full((len(moving), 2, *moving.shape[2:]), 1.0) * moving.mean()
        return field, field


@pytest.mark.parametrize("role", ["moving", "fixed"])
@pytest.mark.parametrize("both_ways", [True, False])
def test_the_loss_has_the_known_contrast_as_reference_and_both_directions(trained, monkeypatch, role, both_ways):
    method = Imse({"preset": "small", "both_ways": both_ways}, 2, Context(needs={"evaluator": trained}, model="m"))
    seen = []

    def error(source, reference):
        seen.append((source, reference))
        return source - 2 * reference

    monkeypatch.setattr(trained, "error", error)
    monkeypatch.setattr(ImseEvaluator, "role", property(lambda self: role))
    moving, fixed = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8) + 1
    terms = method._terms(Known(), moving, fixed, None, 0)
    expected, rough = 0.0, 0.0
    for own, other in [(moving, fixed), (fixed, moving)][: 1 + both_ways]:
        field = Known()(own, other)[0]
        warped = warp(own, field)
        pair = (warped, fixed) if own is moving else (moving, warped)
        source, reference = pair[::-1] if role == "moving" else pair
        expected += float((2 * source - 1 - 2 * (2 * reference - 1)).abs().mean())
        rough += float(gradient_l2(field))
    assert len(seen) == 1 + both_ways
    assert float(terms["similarity"]) == pytest.approx(expected, rel=1e-5)
    assert float(terms["smoothness"]) == pytest.approx(rough * 2 / 3, abs=1e-7)


def test_a_modality_says_which_scans_are_learned_from(slices, tmp_path):
    store = CaseStore(slices[0].folder)
    for modalities, role in ((("t2", "t1"), "moving"), (("t1", "t2"), "fixed")):
        store.manifest |= {"fixed_modality": modalities[0], "moving_modality": modalities[1]}
        assert ImseEvaluator({"learn_from": ("ct", "t1")}, 2)._role(store) == role
    with pytest.raises(ConfigError, match="is to learn from ct, and ellipsoids has t1 and t2: write moving, fixed"):
        ImseEvaluator({"learn_from": ("ct",)}, 2)._role(store)
    method = ImseEvaluator({**EASY, "steps": 2, "learn_from": ("fixed",)}, 2, Context(model=tmp_path))
    method.train(slices[0])
    assert method.role == "fixed"
    with pytest.raises(ConfigError, match="it can't make the moving contrast"):
        method.align(slices[1][0])


def test_what_cannot_work_is_refused(slices, trained, tmp_path):
    with pytest.raises(ConfigError, match="control_points are .50, 2.: write the least"):
        ImseEvaluator({"control_points": (50, 2)}, 2)
    with pytest.raises(ConfigError, match="needs an evaluator in 3 dimensions, not imse_evaluator in 2"):
        Imse({}, 3, Context(model=tmp_path, needs={"evaluator": trained}))
    with pytest.raises(ConfigError, match="similarity imse and needs: .evaluator: .* go together"):
        FreeDisplacement({"similarity": "imse"}, 2, Context())
    with pytest.raises(ConfigError, match="similarity mind: similarity imse and needs"):
        FreeDisplacement({}, 2, Context(needs={"evaluator": trained}))
    other = write_store(tmp_path, {"train": [phantom_case(99, (32, 32), 1.5, 8.0, 4)]})
    write_json(other.folder / "unused.json", {})
    method = Imse({"preset": "small", "steps": 1}, 2, Context(model=tmp_path / "m", needs={"evaluator": trained}))
    with pytest.raises(ConfigError, match="its evaluator was trained on other images"):
        method.train(other)


def test_the_error_is_the_networks_output_or_follows_from_it():
    source, reference = torch.rand(2, 1, 1, 16, 16) * 2 - 1
    errors = {}
    for output in ("difference", "image"):
        method = ImseEvaluator({**EASY, "output": output}, 2)
        torch.manual_seed(0)
        method._loaded = method._network(), {}
        errors[output] = method.error(source, reference)
    torch.testing.assert_close(errors["image"], (reference - errors["difference"]) / 2)


@pytest.mark.parametrize("dimension", [2, 3])
def test_networks_of_the_papers_size(dimension):
    """The generator of CycleGAN with a second input channel: 7^n more weights for each of its 64 first channels."""
    from modalign.networks.gan import ResnetGenerator

    method = ImseEvaluator({}, dimension)
    ours = method._network()
    count = sum(p.numel() for p in ours.parameters())
    if dimension == 2:
        plain = ResnetGenerator(2, channels=64, blocks=9)
        assert count == sum(p.numel() for p in plain.parameters()) + 64 * 7**2 == 11_368_769
    image = torch.zeros(1, 1, *[16] * dimension)
    assert method._judged(ours, image, image).shape == image.shape
    kinds = {type(m).__name__ for m in ours.modules()}
    assert ("Doubling" in kinds) == (dimension == 3)
    assert "BlurPool" not in kinds
    with torch.no_grad():
        assert float(method._judged(ours, image + 0.5, image).abs().max()) <= 1


def test_mae_is_for_one_contrast():
    with pytest.raises(ConfigError, match="similarity mae compares intensities of one contrast"):
        VoxelMorph({"similarity": "mae"}, 2)
    assert VoxelMorph({"similarity": "mae", "translator": True}, 2).options.weight_of_smoothness == 0.5
    assert np.isclose(Imse({"preset": "imse3d"}, 3).options.weight_of_smoothness, 1.0)
    assert np.isclose(Imse({"preset": "imse2d"}, 2).options.weight_of_smoothness, 2 / 3)


def test_a_retrained_evaluator_trains_its_registration_again(slices, tmp_path):
    """Also where the new weights lie in the folder of the old ones."""
    store, unseen = slices
    fields, resumes = [], []
    for steps in (1, 1, 2):
        evaluator = ImseEvaluator({**EASY, "steps": steps}, 2, Context(model=tmp_path / "evaluator"))
        evaluator.train(store)
        context = Context(model=tmp_path / "imse", needs={"evaluator": evaluator})
        method = Imse({"preset": "small", "steps": 2, "keep": "last"}, 2, context)
        resumes.append(method.train(store)["resumes"])
        fields.append(method.align(unseen[0]).field)
    assert resumes == [0, 1, 0]
    assert np.array_equal(fields[0], fields[1])
    assert not np.array_equal(fields[1], fields[2])


def test_the_evaluator_works_where_the_batch_is():
    """One process of several has its batches on a GPU of its own, which it isn't told before it trains."""
    method = ImseEvaluator(EASY, 2)
    method._loaded = method._network(), {}
    source, reference = torch.rand(2, 1, 1, 16, 16, device="meta")
    assert method.error(source, reference).device.type == "meta"
    assert {weights.device.type for weights in method._loaded[0].parameters()} == {"meta"}
