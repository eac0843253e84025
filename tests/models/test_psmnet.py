"""PSMNet: its published sizes, any image and any number of disparities, and what it does with the scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from halonet.models.psmnet import PSMNet
from halonet.models.psmnet_config import PsmnetConfig
from halonet.models.psmnet_parts import PyramidPooling
from halonet.models.psmnet_rows import PSMNETS
from halonet.ops.stereo_volume import soft_argmin

TINY = PsmnetConfig(max_disparity=16, width=4, depths=(1, 1, 1, 1), pools=(4, 2), basis=8, image_size=32)
BASIC = replace(TINY, head="basic")


def parameters(config: PsmnetConfig) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in PSMNet(config).parameters())


def images(*size: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    left, right = torch.randn(2, batch, 3, *size)
    return left, right


def net(config: PsmnetConfig = TINY) -> PSMNet:
    return PSMNet(config).eval()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("psmnet", 5_224_768),
        ("psmnet_basic", 3_672_896),
        ("fa_psmnet", 5_274_304),
        ("fa_psmnet_basic", 3_722_432),
        ("nl_psmnet", 5_274_304),
        ("fa_psmnet_dot", 5_257_536),
    ],
)
def test_published_sizes(name: str, count: int) -> None:
    assert parameters(PSMNETS[name]) == count


def test_factorized_attention_without_reprojection_on_the_basic_head() -> None:
    config = replace(PSMNETS["psmnet_basic"], attention="factorized", attention_form="dot")
    assert parameters(config) == 3_705_664


@pytest.mark.parametrize("name", PSMNETS)
def test_every_row_can_be_built(name: str) -> None:
    assert parameters(PSMNETS[name]) > 0
    assert PSMNETS[name].image_shape in [(256, 512), (64, 128)]


@pytest.mark.parametrize(("config", "outputs"), [(TINY, 3), (BASIC, 1)])
def test_training_gives_every_output_and_evaluation_the_last(config: PsmnetConfig, outputs: int) -> None:
    model, pair = PSMNet(config).train(), images(32, 48)
    listed = model(*pair)
    assert [tuple(output.shape) for output in listed] == [(2, 32, 48)] * outputs
    sum(output.mean() for output in listed).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.no_grad():
        output = model.eval()(*pair)
    assert output.shape == (2, 32, 48)
    assert output.dtype == torch.float32


def test_the_last_output_of_training_is_that_of_evaluation() -> None:
    model, pair = net(), images(32, 32)
    with torch.no_grad():
        expected = model(*pair)
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.eval()
        torch.testing.assert_close(model(*pair)[-1], expected)


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY, BASIC])
@pytest.mark.parametrize("size", [(1, 1), (5, 70), (33, 16)])
@pytest.mark.parametrize("count", [1, 3, 17])
def test_any_size_and_any_number_of_disparities(config: PsmnetConfig, size: tuple[int, int], count: int) -> None:
    output = net(replace(config, max_disparity=count))(*images(*size))
    assert output.shape == (2, *size)
    assert output.min() >= 0
    assert output.max() <= count - 1


@torch.no_grad()
@pytest.mark.parametrize(("config", "multiple"), [(TINY, 16), (BASIC, 4)])
def test_other_images_are_padded_above_and_to_the_right(config: PsmnetConfig, multiple: int) -> None:
    model, (left, right) = net(config), images(30, 45)
    height, width = (-(-side // multiple) * multiple for side in (30, 45))
    padded = torch.zeros(2, 2, 3, height, width)
    padded[:, :, :, -30:, :45] = torch.stack([left, right])
    assert torch.equal(model(left, right), model(*padded)[:, -30:, :45])


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY, BASIC])
def test_images_that_fit_are_untouched(config: PsmnetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    model, (left, right) = net(config), images(16, 48)
    features = model.features
    monkeypatch.setattr(model, "features", lambda image: seen.append(image) or features(image))
    model(left, right)
    assert seen[0] is left
    assert seen[1] is right


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 7, 13, 14, 18])
def test_disparities_beyond_the_largest_are_left_out(count: int) -> None:
    model = net(replace(BASIC, max_disparity=count))

    def rising(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * 0 + 1e4 * torch.arange(output.shape[2])[:, None, None]

    model.heads[0].register_forward_hook(rising)
    torch.testing.assert_close(model(*images(8, 8)), torch.full((2, 8, 8), count - 1.0))


@torch.no_grad()
@pytest.mark.parametrize("align_corners", [False, True])
def test_scores_are_resized_to_the_image_before_the_softmax(align_corners: bool) -> None:
    model, scores = net(replace(BASIC, align_corners=align_corners)), torch.randn(2, 1, 4, 3, 5)
    model.heads[0].register_forward_hook(lambda *_: scores)
    resized = nn.functional.interpolate(scores, (16, 12, 20), mode="trilinear", align_corners=align_corners)
    torch.testing.assert_close(model(*images(12, 20)), soft_argmin(resized[:, 0]))


@torch.no_grad()
def test_features_are_a_quarter_of_the_image() -> None:
    assert net().features(torch.randn(2, 3, 32, 64)).shape == (2, 4, 8, 16)
    assert net().features(torch.randn(1, 3, 1, 5)).shape == (1, 4, 1, 2)


@torch.no_grad()
def test_pools_of_the_pyramid_never_exceed_the_map() -> None:
    pyramid = PyramidPooling(2, 3, pools=(64, 2), align_corners=False).eval()
    x = torch.randn(1, 2, 3, 4)
    whole, squares = pyramid(x)
    torch.testing.assert_close(whole, pyramid.branches[0](x.mean((2, 3), keepdim=True)).expand(1, 3, 3, 4))
    two = x[:, :, :2].unflatten(3, (2, 2)).mean((2, 4))[:, :, None]  # the last row is in no square
    resized = nn.functional.interpolate(pyramid.branches[1](two), size=(3, 4), mode="bilinear")
    torch.testing.assert_close(squares, resized)


@pytest.mark.parametrize("attention", ["factorized", "nonlocal"])
@pytest.mark.parametrize("form", ["dot", "bot"])
@torch.no_grad()
def test_attention_begins_as_the_identity_before_the_pyramid(attention: str, form: str) -> None:
    model, pair = net(replace(TINY, attention=attention, attention_form=form)), images(32, 32)
    plain = net()
    fresh = model.load_state_dict(plain.state_dict(), strict=False)
    assert fresh.missing_keys
    assert all(name.startswith("feature_network.attention.") for name in fresh.missing_keys)
    torch.testing.assert_close(model(*pair), plain(*pair))
    seen: dict[str, Tensor] = {}
    network = model.feature_network
    network.attention.register_forward_hook(lambda _, inputs, output: seen.update(before=inputs[0], after=output))
    network.pyramid.register_forward_hook(lambda _, inputs, output: seen.update(pooled=inputs[0]))
    for parameter in network.attention.parameters():
        nn.init.normal_(parameter)
    assert not torch.allclose(model(*pair), plain(*pair))
    assert seen["pooled"] is seen["after"]
    assert seen["before"].shape == (2, 16, 8, 8)


def test_convolutions_begin_by_he_and_norms_as_ones() -> None:
    model = PSMNet(replace(TINY, width=16, attention="factorized"))
    for weight, outgoing in [
        (model.feature_network.clusters[3][0].conv2.conv.weight, 9 * 64),
        (model.hourglasses[0].mix1.conv.weight, 27 * 32),
        (model.feature_network.fuse[1].weight, 16),
    ]:
        assert weight.std().item() == pytest.approx(math.sqrt(2 / outgoing), rel=0.1)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)
    assert not model.feature_network.attention.output.weight.any()


def gradients(model: PSMNet, pair: tuple[Tensor, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(sum(output.square().mean() for output in model(*pair)), list(model.parameters())))


@pytest.mark.parametrize("config", [TINY, replace(BASIC, attention="nonlocal")])
def test_recomputed_activations_give_the_same_gradients(config: PsmnetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pair = PSMNet(config).double().train(), tuple(image.double() for image in images(32, 32))
    kept = gradients(model, pair)
    calls: list[nn.Module] = []
    original = torch.utils.checkpoint.checkpoint

    def counted(module: nn.Module, *inputs: Any, **options: Any) -> Any:
        calls.append(module)
        return original(module, *inputs, **options)

    monkeypatch.setattr("halonet.models.psmnet_parts.checkpoint", counted)
    model.set_grad_checkpointing()
    torch.testing.assert_close(gradients(model, pair), kept)
    assert len(calls) == 2 * 4 + len(model.hourglasses)
    model.set_grad_checkpointing(enable=False)
    gradients(model, pair)
    assert len(calls) == 2 * 4 + len(model.hourglasses)


def settled(config: PsmnetConfig) -> PSMNet:
    """With norms that have seen something, so that scores are not all but equal."""
    model = PSMNet(config).train()
    with torch.no_grad():
        for _ in range(3):
            model(*images(32, 32))
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "changed",
    [
        lambda model, pair: model.to(memory_format=torch.channels_last)(
            *(image.contiguous(memory_format=torch.channels_last) for image in pair)
        ),
        lambda model, pair: torch.compile(model, backend="aot_eager", fullgraph=True)(*pair),
        lambda model, pair: torch.export.export(model, pair).module()(*pair),
        lambda model, pair: model.double()(*(image.double() for image in pair)).float(),
    ],
    ids=["channels_last", "compiled", "exported", "float64"],
)
def test_the_same_numbers_otherwise(changed: Callable[[PSMNet, tuple[Tensor, Tensor]], Tensor]) -> None:
    model, pair = settled(replace(TINY, attention="factorized")), images(20, 32)
    expected = model(*pair)
    assert expected.std() > 0.01
    torch._dynamo.reset()
    torch.testing.assert_close(changed(model, pair), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.channels_last_3d])
def test_channels_last_is_laid_on_weights_of_either_rank(memory_format: torch.memory_format) -> None:
    model = net().to(memory_format=memory_format)
    flat, deep = model.feature_network.fuse[0].conv.weight, model.hourglasses[0].up1.conv.weight
    assert flat.is_contiguous(memory_format=torch.channels_last)
    assert deep.is_contiguous(memory_format=torch.channels_last_3d)
    model = model.to(torch.float64, memory_format=torch.contiguous_format)
    assert flat.is_contiguous()
    assert flat.dtype == torch.float64


@pytest.mark.parametrize("config", [TINY, replace(BASIC, attention="factorized")])
def test_half_precision_gives_disparities_in_float32(config: PsmnetConfig) -> None:
    model, pair = settled(config), images(32, 32)
    expected = model(*pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(*pair)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output, expected, rtol=0.1, atol=0.3)
    output.sum().backward()
    assert model.bfloat16()(*(image.bfloat16() for image in pair)).dtype == torch.float32


@pytest.mark.parametrize(
    ("left", "right", "said"),
    [
        ((2, 3, 8, 8), (2, 3, 8, 9), r"one shape, got \(2, 3, 8, 8\) and \(2, 3, 8, 9\)"),
        ((3, 8, 8), (3, 8, 8), r"left must be \(batch, 3, height, width\), got \(3, 8, 8\)"),
        ((1, 3, 8, 8), (1, 1, 8, 8), r"right must be \(batch, 3, height, width\), got \(1, 1, 8, 8\)"),
        ((1, 3, 0, 8), (1, 3, 0, 8), r"left must be .*, got \(1, 3, 0, 8\)"),
    ],
)
def test_pairs_that_do_not_fit_are_told(left: tuple[int, ...], right: tuple[int, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        net()(torch.zeros(left), torch.zeros(right))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": "stacked"}, "head must be one of basic, hourglass, got 'stacked'"),
        ({"attention": "full"}, "attention must be one of none, factorized, nonlocal, got 'full'"),
        ({"attention_form": "x"}, "attention_form must be one of dot, bot"),
        ({"attention_kind": "x"}, "attention_kind must be one of gaussian, dot"),
        ({"max_disparity": 0}, "max_disparity must be a positive int, got 0"),
        ({"width": 2.5}, r"width must be a positive int, got 2\.5"),
        ({"depths": (1, 2, 3)}, r"depths must be 4 numbers, got \(1, 2, 3\)"),
        ({"depths": (1, 2, 3, 0)}, "depths must be a positive int, got 0"),
        ({"pools": ()}, r"pools must be a tuple of positive ints, got \(\)"),
        ({"pools": 8}, "pools must be a tuple of positive ints, got 8"),
        ({"basis": 0}, "basis must be a positive int, got 0"),
        ({"align_corners": 1}, "align_corners must be true or false, got 1"),
        ({"image_size": (0, 4)}, "image_size must be"),
        ({"in_chans": 0}, "in_chans must be a positive int, got 0"),
    ],
)
def test_options_out_of_range_are_told(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PsmnetConfig(**options)


def test_lists_become_tuples() -> None:
    config = PsmnetConfig(depths=[1, 2, 1, 1], pools=[4, 2])  # type: ignore[arg-type]
    assert (config.depths, config.pools) == ((1, 2, 1, 1), (4, 2))
    assert hash(config) == hash(PsmnetConfig(depths=(1, 2, 1, 1), pools=(4, 2)))
