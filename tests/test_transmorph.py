"""TransMorph: the published network, MONAI's transformer as second opinion, and a training that aligns volumes."""

import pytest
import torch
from ellipsoid_pairs import ONE_CONTRAST, Unchanged, remaining_difference, volume_store
from monai.networks.nets.swin_unetr import SwinTransformer
from torch.nn import functional

from modalign.errors import ConfigError
from modalign.methods.base import Context
from modalign.methods.transmorph import TransMorph
from modalign.networks.transmorph import SwinEncoder
from modalign.networks.transmorph import TransMorph as Network
from modalign.training.loop import count_parameters

SMALL = {"preset": "small", "similarity": "mse", "translator": True}


def test_it_learns_to_align_volumes_of_one_contrast(tmp_path):
    store, unseen = volume_store(tmp_path, ONE_CONTRAST, 24)
    context = Context(model=tmp_path / "model", needs={"translator": Unchanged(dimension=3)})
    method = TransMorph({**SMALL, "steps": 35}, 3, context)
    method.train(store)
    assert remaining_difference(method, unseen) < 0.7


def test_the_paper_preset_has_the_published_size_and_takes_a_step():
    options = {"similarity": "mse", "translator": True}
    for preset in ("paper", "original"):
        method = TransMorph({**options, "preset": preset}, 3, None)
        assert method.options.weight_of_smoothness == 0.02
    network = method._network()
    # 46.77 million in the paper.
    assert count_parameters(network) == 46_771_251
    moving, fixed = torch.rand(2, 1, 1, 32, 32, 16)
    terms = method._terms(network, moving, fixed, None, 0)
    sum(terms.values()).backward()
    assert terms["similarity"].item() == pytest.approx((moving - fixed).square().mean().item(), rel=1e-3)
    assert network.flow.weight.grad.abs().max() > 0
    assert {name for name, p in network.named_parameters() if p.grad is None} == set()


def test_stages_and_merging_agree_with_monai():
    torch.manual_seed(0)
    sizes = {"depths": (2, 1, 1, 2), "num_heads": (2, 2, 4, 4)}
    own = SwinEncoder(3, 8, **sizes, window=(3, 3, 2), drop_path=0.0).eval()
    monai = SwinTransformer(
        2, 8, (3, 3, 2), (4, 4, 4), **sizes, qkv_bias=False, patch_norm=True, downsample="mergingv2", spatial_dims=3
    ).eval()
    monai.patch_embed.load_state_dict(own.embed.state_dict())
    for number, stage in enumerate(own.stages):
        theirs = getattr(monai, f"layers{number + 1}")[0]
        theirs.blocks.load_state_dict(stage.blocks.state_dict())
        if number < 3:
            theirs.downsample.load_state_dict(own.merge[number].state_dict())
    images = torch.rand(1, 2, 72, 40, 24)
    with torch.no_grad():
        stages = own(images)
        merged = monai(images, normalize=False)
        for number in range(3):
            # Norms start as the identity, after normalising; merging normalises what it gets.
            unnormed = own.stages[number](merged[number])
            expected = functional.layer_norm(unnormed.movedim(1, -1), unnormed.shape[1:2]).movedim(-1, 1)
            torch.testing.assert_close(stages[number], expected, atol=1e-5, rtol=0)
            following = own.merge[number](unnormed.movedim(1, -1)).movedim(-1, 1)
            torch.testing.assert_close(following, merged[number + 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(64, 48, 16), (21, 18, 9), (33, 16, 3), (40, 27)])
def test_any_size_will_do(shape):
    torch.manual_seed(0)
    network = Network(len(shape), 8, (1, 1, 1, 1), (2, 2, 2, 2), (4, 4, 4), 4).eval()
    torch.nn.init.normal_(network.flow.weight, std=0.1)
    images = torch.rand(2, 1, 1, *shape)
    field = network(*images)
    assert field.shape == (1, len(shape), *shape)
    # Whatever is padded, is padded at the far ends by repeating the border.
    padding = [amount for n in reversed(shape) for amount in (0, -n % 4)]
    wider = network(*(functional.pad(image, padding, mode="replicate") for image in images))
    torch.testing.assert_close(field, wider[(..., *[slice(n) for n in shape])], atol=1e-5, rtol=0)


def test_images_and_options_that_cannot_work():
    network = Network(3, 8, (1, 1, 1, 1), (2, 2, 2, 2), (4, 4, 4), 4)
    with pytest.raises(ValueError, match=r"needs more than 16 voxels along an axis, not \(16, 16, 4\)"):
        network(*torch.rand(2, 1, 1, 16, 16, 4))
    with pytest.raises(ConfigError, match="stage 1 has 10 channels, which 4 heads can't share"):
        TransMorph({"embed_dim": 10}, 3)
