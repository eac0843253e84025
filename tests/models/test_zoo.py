"""Models by name: create_model, list_models, the same through timm, and what is refused."""

import pytest
import timm
import torch

import halonet
from halonet.models.residual import ResidualNet

NANO = "halonet_nano_32"


def test_list_models():
    names = halonet.list_models()
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert {f"halonet_h{i}_{s}" for i, s in enumerate((256, 256, 256, 320, 384, 448, 512, 600))} <= set(names)
    assert halonet.list_models("halonet_h?_256") == ["halonet_h0_256", "halonet_h1_256", "halonet_h2_256"]
    assert halonet.list_models("resnet50_se8*") == ["resnet50_se8_512", "resnet50_se8_halo_512"]
    assert halonet.list_models("vit*") == []


@pytest.mark.parametrize(
    ("options", "channels", "reductions"),
    [
        ({}, [64, 128], [2, 4]),
        ({"stem": "conv7"}, [32, 64, 128], [2, 4, 8]),
        ({"stem": "patch4", "head_width": 10}, [64, 128], [4, 8]),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("create", "choice"),
    [(halonet.create_model, {}), (timm.create_model, {}), (timm.create_model, {"feature_cls": "getter"})],
    ids=["halonet", "timm-list", "timm-getter"],
)
def test_features_only(create, choice, options, channels, reductions):
    features = create(NANO, features_only=True, **options, **choice).eval()
    assert features.feature_info.channels() == channels
    assert features.feature_info.reduction() == reductions
    whole = halonet.create_model(NANO, **options).eval()
    load_features(features, whole)
    image = torch.randn(2, 3, 40, 24)
    maps = features(image)
    expected = whole.forward_intermediates(image, intermediates_only=True)
    torch.testing.assert_close(maps, expected)
    sizes = [(40 // reduction, 24 // reduction) for reduction in reductions]
    assert [tuple(map_.shape) for map_ in maps] == [(2, c, *s) for c, s in zip(channels, sizes, strict=True)]


def load_features(features, whole):
    """Copies the whole model's tensors into a feature model, which names them its own way."""
    state = {name.removeprefix("model.").replace("stages_", "stages."): name for name in features.state_dict()}
    features.load_state_dict({name: whole.state_dict()[ours] for ours, name in state.items()})


@pytest.mark.parametrize("create", [halonet.create_model, timm.create_model])
@pytest.mark.parametrize(
    ("out_indices", "channels"), [((0,), [64]), ((1, 3), [256, 1024]), ((-1,), [2048]), ((0, 4), [64, 2048])]
)
def test_out_indices(create, out_indices, channels):
    with torch.device("meta"):
        model = create("resnet50_256", features_only=True, out_indices=out_indices)
        maps = model(torch.empty(1, 3, 64, 64))
    assert [map_.shape[1] for map_ in maps] == channels == model.feature_info.channels()
    assert [64 // map_.shape[2] for map_ in maps] == model.feature_info.reduction()


@torch.no_grad()
def test_intermediates():
    model = halonet.create_model(NANO).eval()
    image = torch.randn(1, 3, 32, 32)
    last, maps = model.forward_intermediates(image)
    assert len(maps) == 2
    torch.testing.assert_close(last, model.forward_features(image))
    assert [m.shape for m in model.forward_intermediates(image, indices=1, intermediates_only=True)] == [maps[1].shape]
    early, first = model.forward_intermediates(image, indices=[0], stop_early=True)
    torch.testing.assert_close([early, *first], [maps[0], maps[0]])
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(image, output_fmt="NLC")


@pytest.mark.parametrize("stem", ["conv3", "conv7"])
def test_pruning_for_intermediates(stem):
    model = halonet.create_model(NANO, stem=stem, head_width=16)
    image = torch.randn(1, 3, 32, 32)
    model.eval()
    expected = model.forward_intermediates(image, indices=[0], intermediates_only=True)
    assert model.prune_intermediate_layers([0]) == [0]
    assert len(model.stages) == (0 if stem == "conv7" else 1)
    torch.testing.assert_close(model.forward_intermediates(image, indices=[0], intermediates_only=True), expected)


def test_timm_builds_the_same_model():
    options = {"num_classes": 3, "in_chans": 1, "drop_path_rate": 0.1, "drop_rate": 0.2, "block_size": 8}
    ours = halonet.create_model(NANO, img_size=64, **options).eval()
    theirs = timm.create_model(NANO, img_size=64, **options).eval()
    assert type(ours) is type(theirs) is ResidualNet
    assert ours.config == theirs.config
    assert ours.default_cfg == theirs.default_cfg
    assert theirs.pretrained_cfg.items() < theirs.default_cfg.items()
    theirs.load_state_dict(ours.state_dict())
    image = torch.randn(2, 1, 30, 30)
    torch.testing.assert_close(theirs(image), ours(image), rtol=0, atol=0)


def test_timm_reads_the_data_configuration():
    config = timm.data.resolve_model_data_config(halonet.create_model(NANO, img_size=48))
    assert config["input_size"] == (3, 48, 48)
    assert config["mean"] == timm.data.IMAGENET_DEFAULT_MEAN
    assert config["interpolation"] == "bicubic"


@pytest.mark.parametrize("create", [halonet.create_model, timm.create_model])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_sise": 4}, "unknown model option 'block_sise'; did you mean block_size"),
        ({"head_widths": 4}, "unknown model option 'head_widths'; did you mean head_width"),
        ({"stages": ()}, "unknown model option 'stages'"),
        ({"halo_size": [1, 2, 3]}, r"halo_size must be one value or a list of 2, got \[1, 2, 3\]"),
        ({"slot": "mlp"}, "slot must be one of conv, halo, mhsa, got 'mlp'"),
        ({"stem": "conv9"}, "stem must be one of conv7, conv3, patch4, got 'conv9'"),
        ({"activation": "tanh"}, "activation must be one of relu, silu, gelu, got 'tanh'"),
        ({"relative": "learned"}, "relative must be one of"),
        ({"depth": 0}, "depth must be"),
        ({"depth": "two"}, "depth must be"),
        ({"num_heads": 0}, "num_heads must be"),
        ({"num_heads": 3}, "num_heads=3"),
        ({"squeeze_excite": 2.0}, "squeeze_excite must be a share from 0 to 1, got 2.0"),
        ({"output_multiplier": 0.0}, "output_multiplier must be"),
        ({"stem_width": 0}, "stem_width must be"),
        ({"stem_stride": 0}, "stem_stride must be"),
        ({"head_width": 0}, "head_width must be"),
        ({"window": 4}, "window must be an odd positive int"),
        ({"block_size": 5}, "block_size must be a multiple of stride=2"),
        ({"img_size": 0}, "img_size must be"),
        ({"img_size": (1, 2, 3)}, "img_size must be"),
        ({"num_classes": -1}, "num_classes must be"),
        ({"in_chans": 0}, "in_chans must be"),
        ({"drop_rate": 1.5}, "drop_rate must be"),
        ({"drop_path_rate": 1.0}, "drop_path_rate must be"),
        ({"global_pool": "median"}, "global_pool must be one of"),
        ({"features_only": True, "out_indices": (2,)}, "out_indices must be from -2 to 1"),
    ],
    ids=str,
)
def test_refuses_options(create, options, message):
    with pytest.raises(ValueError, match=message):
        create(NANO, **options)


def test_refuses_unknown_names_with_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'halonet_h1_255'; did you mean halonet_h1_256"):
        halonet.create_model("halonet_h1_255")
    with pytest.raises(ValueError, match="unknown model 'halonet-nano-32'; did you mean halonet_nano_32"):
        halonet.create_model("halonet-nano-32")
    with pytest.raises(ValueError, match="unknown model 'xyz'"):
        halonet.create_model("xyz")


def test_a_wrong_name_is_told_before_a_wrong_option():
    with pytest.raises(ValueError, match="unknown model"):
        halonet.create_model("halonet_nano_33", block_sise=4)
