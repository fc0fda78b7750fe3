"""The pseudo-CT: known motions and penalties, inference by patches, and a training that beats the misaligned CT."""

import copy

import numpy as np
import pytest
import scipy.ndimage as ndi
import torch

from modalign.cases import Case, CaseStore, Intensity
from modalign.errors import ConfigError, DataError
from modalign.files import write_json
from modalign.methods.base import Context
from modalign.methods.intensity_map import IntensityMap
from modalign.methods.pseudo_ct import PseudoCT
from modalign.networks.pseudo_ct import WIDTHS, Discriminator, RegistrationNet, UNet
from modalign.spatial.warp import identity, warp
from modalign.training.data import draw_cases
from modalign.training.equivariance import Motion, Weights, look, random_motion, rigidity_penalty, synthesis_terms
from modalign.training.misaligned_pairs import blended, from_network, normalised_fixed, to_network, write_pairs
from modalign.volumes import Volume, write_volume

SHAPE = (32, 32, 10)
TISSUES = {"mr": (0.0, 90.0, 60.0, 5.0, 30.0), "ct": (-1000.0, -80.0, 40.0, 800.0, 0.0)}
"""Air, fat, soft tissue, bone, fluid; bone is as dark as air in the MR, so its surroundings have to tell."""


def head(seed: int) -> Case:
    """A skull with fat around and fluid inside; the CT lies a few voxels off, and its range differs by patient."""
    rng = np.random.default_rng(seed)
    x = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij"))
    radius = np.hypot(x[0] / rng.uniform(0.75, 0.9), x[1] / rng.uniform(0.75, 0.9)) + 0 * x[2]
    radius += 0.05 * ndi.gaussian_filter(rng.standard_normal(SHAPE), 3) / 0.02 * 0.05
    labels = np.select([radius > 1, radius > 0.86, radius > 0.7, radius > 0.3], [0, 1, 3, 2], 4)
    labels[(x[0] - 0.3) ** 2 + (x[1] + 0.3) ** 2 < 0.02] = 1
    gain, peak = rng.uniform(0.7, 1.4), rng.uniform(1200, 2000)
    images = {name: ndi.gaussian_filter(np.array(values)[labels], 0.6) for name, values in TISSUES.items()}
    mr = gain * images["mr"] + rng.normal(0, 1, SHAPE)
    shift = rng.choice([-1, 1], 2) * rng.uniform(1.0, 2.0, 2)
    field = np.stack([ndi.gaussian_filter(rng.standard_normal(SHAPE), 6) for _ in range(2)])
    field = field / np.abs(field).max() + shift[:, None, None, None]
    look_up = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij")).astype(float)
    look_up[:2] += field
    moved = ndi.map_coordinates(images["ct"], look_up, order=1, mode="nearest")
    scale, offset = (peak + 1000) / 2, (peak - 1000) / 2
    affine = np.diag([3.0, 3.0, 8.0, 1.0])
    stored = {"fixed": mr / 150, "moving": (moved - offset) / scale, "true_image": (images["ct"] - offset) / scale}
    volumes = {name: Volume(data.astype(np.float32), affine) for name, data in stored.items()}
    mask = Volume((labels > 0).astype(np.uint8), affine)
    return Case(
        f"head-{seed}", **volumes, fixed_mask=mask, dataset="heads", moving_intensity=Intensity(scale, offset, "HU")
    )


def write_store(folder, splits):
    listed = []
    for split, cases in splits.items():
        for case in cases:
            for part in ("fixed", "moving", "fixed_mask"):
                write_volume(folder / case.id / f"{part}.nii.gz", getattr(case, part))
            intensities = {
                f"{side}_intensity": vars(getattr(case, f"{side}_intensity")) for side in ("fixed", "moving")
            }
            write_json(
                folder / case.id / "case.json", {"case": case.id, "dataset": "heads", "split": split, **intensities}
            )
            listed.append({"case": case.id, "split": split})
    write_json(folder / "cases.json", {"dataset": "heads", "labels": {}, "cases": listed})
    return CaseStore(folder)


def error_hu(image, case):
    inside = case.fixed_mask.data > 0
    return float(np.abs(image - case.true_image.data)[inside].mean() * case.moving_intensity.scale)


def without_truth(case):
    return Case(case.id, case.fixed, case.moving, case.fixed_mask, moving_intensity=case.moving_intensity)


def test_it_beats_the_misaligned_ct_and_the_intensity_map(tmp_path):
    store = write_store(tmp_path / "store", {"train": [head(seed) for seed in range(6)]})
    options = {"steps": 80, "batch": 4, "rigid": False}
    method = PseudoCT({"preset": "small", **options}, 2, Context(model=tmp_path / "model"))
    record = method.train(store)
    assert record["trained_on"] == [f"head-{seed}" for seed in range(6)]
    errors = {"unaligned": [], "map": [], "pseudo": []}
    for case in (head(100), head(101), head(102)):
        blind = without_truth(case)
        errors["unaligned"].append(error_hu(case.moving.data, case))
        errors["map"].append(error_hu(IntensityMap({}, 3).align(blind).image.data, case))
        errors["pseudo"].append(error_hu(method.align(blind).image.data, case))
    mean = {name: np.mean(values) for name, values in errors.items()}
    assert mean["pseudo"] < 0.85 * mean["unaligned"]
    assert mean["pseudo"] < mean["map"]


@pytest.mark.parametrize("dimension", [2, 3])
def test_training_again_gives_the_same_weights_and_aligns_any_size(dimension, tmp_path):
    store = write_store(tmp_path / "store", {"train": [head(0)], "test": [head(1)]})
    crop = (16, 16, 8)[:dimension]
    options = {"preset": "small", "steps": 2, "batch": 2, "adversarial_weight": 0.01, "crop": crop, "rigid": False}
    for name in "ab":
        PseudoCT(options, dimension, Context(seed=1, model=tmp_path / name)).train(store)
    first, second = ((tmp_path / name / "weights.pt").read_bytes() for name in "ab")
    assert first == second
    odd = head(2)
    cut = {part: Volume(getattr(odd, part).data[:29, :21, :7], odd.fixed.affine) for part in ("fixed", "moving")}
    aligned = PseudoCT(options, dimension, Context(model=tmp_path / "a")).align(Case("odd", **cut))
    assert aligned.field is None
    assert aligned.image.data.std() > 0


def test_the_splits_to_train_on_are_the_ones_that_are_read(tmp_path):
    store = write_store(tmp_path / "store", {"train": [head(0)], "validation": [head(1)], "test": [head(2)]})
    options = {"preset": "small", "steps": 1, "rigid": False}
    for splits in (["train"], ["train", "validation", "test"]):
        record = PseudoCT({**options, "train_on": splits}, 2, Context(model=tmp_path / "model")).train(store)
        assert record["trained_on"] == store.ids(splits)
    empty = write_store(tmp_path / "empty", {"test": [head(2)]})
    with pytest.raises(DataError, match="has no cases in train: give the data set's split some, or set train_on"):
        PseudoCT(options, 2, Context(model=tmp_path / "model")).train(empty)


def test_a_share_of_the_cases_is_drawn(tmp_path):
    store = write_store(tmp_path / "store", {"train": [head(seed) for seed in range(4)]})
    options = {"preset": "small", "steps": 1, "rigid": False, "train_fraction": 0.5}
    record = PseudoCT(options, 2, Context(seed=3, model=tmp_path / "model")).train(store)
    assert record["trained_on"] == draw_cases(store.ids(), 0.5, 3, "heads")
    assert len(record["trained_on"]) == 2


def test_pairs_are_written_again_by_other_code(tmp_path, monkeypatch):
    store = write_store(tmp_path / "store", {"train": [head(0)]})
    path, _ = write_pairs(store, ["head-0"], tmp_path / "pairs.h5", rigid=False, context=Context())
    before = path.stat().st_mtime_ns
    monkeypatch.setattr("modalign.training.misaligned_pairs.code_digest", lambda *modules: "changed")
    for _ in range(2):
        write_pairs(store, ["head-0"], path, rigid=False, context=Context())
        assert path.stat().st_mtime_ns != before
        monkeypatch.setattr("modalign.training.misaligned_pairs.warp_volume", None)


def test_pairs_are_in_hu_and_registered_rigidly_and_written_once(tmp_path):
    case = head(0)
    shifted = Volume(case.moving.data, case.moving.affine.copy())
    shifted.affine[0, 3] += 9.0
    case = Case(case.id, case.fixed, shifted, case.fixed_mask, dataset="heads", moving_intensity=case.moving_intensity)
    store = write_store(tmp_path / "store", {"train": [case]})
    path, spacing = write_pairs(store, ["head-0"], tmp_path / "pairs.h5", rigid=False, context=Context())
    assert spacing == [3.0, 3.0, 8.0]
    before = path.stat().st_mtime_ns
    assert write_pairs(store, ["head-0"], path, rigid=False, context=Context())[0].stat().st_mtime_ns == before
    import h5py

    with h5py.File(path) as file:
        moving, valid = file["head-0/moving"][:], file["head-0/moving_mask"][:]
    np.testing.assert_allclose(moving[3:], case.moving_intensity.to_physical(case.moving.data)[:-3] / 1000, atol=1e-4)
    assert not valid[:3].any()
    assert valid[3:].all()
    np.testing.assert_allclose(from_network(to_network(case.moving.data, case), case), case.moving.data, atol=1e-5)
    assert np.median(normalised_fixed(case)[case.fixed_mask.data > 0]) == pytest.approx(1, abs=1e-5)


def test_a_motion_and_the_motion_undone_are_inverse():
    motion = random_motion(2, (3.0, 3.0, 8.0), 25, 4, np.random.default_rng(0))
    field = motion.field((12, 10, 8))
    torch.testing.assert_close(motion.undone(field), torch.zeros_like(field), atol=1e-4, rtol=0)
    quarter = Motion(torch.tensor([[[0.0, -1.0], [1.0, 0.0]]]), torch.tensor([[1.0, 0.0]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(motion.field((12, 10, 8)), field)
        torch.testing.assert_close(motion.undone(field), torch.zeros_like(field), atol=1e-4, rtol=0)
    image = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(0))
    turned = warp(image, quarter.field((9, 9)))
    # Looks up (x, y) -> (-y + 1, x) about the centre.
    expected = torch.rot90(image, -1, (2, 3)).roll(1, 3)
    torch.testing.assert_close(turned[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-4, rtol=0)


def test_rigid_motions_cost_nothing_and_known_deformations_what_they_should():
    spacing = (1.5, 2.0, 4.0)
    rigid = random_motion(1, spacing, 25, 4, np.random.default_rng(1)).field((8, 9, 7)).double()
    assert float(rigidity_penalty(rigid, spacing)) < 1e-8
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert float(rigidity_penalty(rigid.float(), spacing)) < 1e-8
    x = identity((8, 9, 7), torch.device("cpu"), torch.float64)
    stretched = torch.zeros_like(x)
    stretched[:, 0] = 0.1 * x[:, 0]
    # |J| = 1.1, and J J^T - I has the one entry 0.21.
    assert float(rigidity_penalty(stretched, spacing)) == pytest.approx(0.1 * 0.1**2 + 0.01 * 0.21**2, rel=1e-6)
    bent = torch.zeros_like(x)
    bent[:, 0] = 0.01 * x[:, 1] ** 2
    slope = 0.01 * (2 * np.arange(8) + 1) * 1.5 / 2.0
    product = np.mean(2 * slope**2 + slope**4)
    assert float(rigidity_penalty(bent, spacing)) == pytest.approx((0.02 * 1.5 / 4) ** 2 + 0.01 * product, rel=1e-6)


def test_what_the_discriminator_sees_is_aligned_when_the_networks_are_perfect():
    """With F the identity and no registration, real is the moved y, and fake F of the moved x: the moved x itself."""
    grid = identity((24, 24), torch.device("cpu"), torch.float32)[0]
    x = torch.exp(-((grid[0] - 13) ** 2 + (grid[1] - 10) ** 2) / 20)[None, None]
    still = {"generator": torch.nn.Identity(), "cross": lambda *images: torch.zeros(1, 2, 24, 24)}
    push = torch.zeros(1, 2, 24, 24)
    push[:, 0] = 1.5
    motion = random_motion(1, (1.0, 1.0), 20, 2, np.random.default_rng(0))
    seen = look({**still, "intra": lambda *images: push}, x, x, torch.ones_like(x), motion)
    # The second registration moves F(x) back by 1.5 voxels; the fake is that, in the moved frame.
    expected = warp(warp(x, -push), seen.motion_field)
    inner = (..., slice(4, -4), slice(4, -4))
    torch.testing.assert_close(seen.fake[inner], expected[inner], atol=0.03, rtol=0)
    torch.testing.assert_close(seen.real, warp(x, seen.motion_field))


@pytest.mark.parametrize("size", [(24, 24), (16, 16, 8)])
def test_mixed_precision_has_nearly_the_same_losses(size):
    torch.manual_seed(0)
    networks = PseudoCT({"preset": "small", "adversarial_weight": 0.01}, len(size))._networks()
    for name in ("cross", "intra"):
        # Larger velocities than those of the first steps.
        for weights in list(networks[name].parameters())[-2:]:
            torch.nn.init.normal_(weights, std=0.3)
    x, y = torch.rand(2, 2, 1, *size, generator=torch.Generator().manual_seed(0))
    motion = random_motion(2, [1.0] * len(size), 20, 2, np.random.default_rng(0))
    found = []
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half), torch.no_grad():
            seen = look(networks, x, y, torch.ones_like(x), motion, 4)
            terms = synthesis_terms(networks["discriminator"], seen, [1.0] * len(size), Weights())
        found.append({name: float(term) for name, term in terms.items()})
    assert found[0]["rigidity"] > 1e-4
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_patches_are_blended_without_seams():
    image = torch.rand(2, 1, 21, 17, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(blended(lambda x: 2 * x, image, (8, 8, 12)), 2 * image)
    sizes = []
    blended(lambda x: sizes.append(tuple(x.shape[2:])) or x, image, (8, 8, 12))
    assert set(sizes) == {(8, 8, 12)}
    torch.testing.assert_close(blended(lambda x: x + 1, image, None), image + 1)


def double_convolution(inputs, width, groups):
    return 27 * inputs * width + 27 * width**2 + 2 * width + (4 * width if groups else 0)


def test_the_published_network_has_the_published_number_of_weights():
    widths = WIDTHS["paper"].generator
    count = double_convolution(1, 64, False) + 64 + 1
    for level in range(1, 5):
        fine, coarse = widths[level - 1], widths[level]
        count += 8 * fine * coarse + coarse + double_convolution(coarse, coarse, True)
        count += 8 * coarse**2 + coarse + double_convolution(coarse + fine, fine, level > 1)
    with torch.device("meta"):
        network = UNet(3, 1, 1, widths, 16)
    assert sum(p.numel() for p in network.parameters()) == count == 71_710_977


@pytest.mark.parametrize("dimension", [2, 3])
def test_registrations_start_close_to_nothing_and_the_discriminator_takes_thin_images(dimension):
    torch.manual_seed(0)
    size = (20, 18, 5)[:dimension]
    image = torch.rand(2, 1, *size)
    velocity = RegistrationNet(dimension, 2, WIDTHS["small"].registration)(image, image)
    assert float(velocity.detach().abs().max()) < 0.1
    scores = Discriminator(dimension, WIDTHS["small"].discriminator)(
        image, image * torch.tensor([1.0, 0.0]).reshape(2, *[1] * (dimension + 1))
    )
    assert scores[0] != scores[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_on": []}, r"train_on names no split: write \[train\]"),
        ({"steps": 5, "epochs": 2}, "either in steps or in epochs"),
        ({"keep": "best"}, "makes no validations, and its last weights are used: leave out keep and validate_every"),
        ({"validate_every": 5}, "makes no validations"),
        ({"crop": [32, 32, 32]}, r"has crop \[32, 32, 32\], and works in 2 dimensions"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ConfigError, match=message):
        PseudoCT(options, 2)


def test_presets():
    paper = PseudoCT({}, 3).options
    assert (paper.epochs, paper.batch, paper.crop, paper.discriminator_rate) == (15, 4, (64, 64, 64), 4.0)
    assert paper.learning_rate * paper.discriminator_rate == pytest.approx(4e-4)


def test_registrations_learn_at_their_own_rate(tmp_path, monkeypatch):
    """In a short training they would otherwise squeeze out what the synthesis doesn't show yet."""
    store = write_store(tmp_path / "store", {"train": [head(0)]})
    moved = {}
    for rate in (1.0, 0.01):
        options = {"preset": "small", "steps": 1, "batch": 2, "crop": (16, 16), "rigid": False}
        method = PseudoCT({**options, "registration_rate": rate}, 2, Context(model=tmp_path / str(rate)))
        torch.manual_seed(0)
        networks = method._networks()
        before = {name: copy.deepcopy(network.state_dict()) for name, network in networks.items()}
        monkeypatch.setattr(method, "_networks", lambda networks=networks: networks)
        method.train(store)
        moved[rate] = {
            name: max(float((weights - before[name][key]).abs().max()) for key, weights in network.state_dict().items())
            for name, network in networks.items()
        }
    assert moved[0.01]["generator"] == pytest.approx(moved[1.0]["generator"], rel=1e-3)
    for name in ("cross", "intra"):
        assert moved[0.01][name] == pytest.approx(0.01 * moved[1.0][name], rel=0.1)
