"""Multi-scale vision transformers: what a row does not already promise."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import halonet
from halonet.layers import FullAttention, LinformerAttention, LongformerAttention, TokenAttention
from halonet.models.checkpoints import load_model, load_weights, save_weights
from halonet.models.vil_weights import convert_vil

NANO = "vil_nano_32"
SMALL = {"depth": 1, "width": [8, 16, 16, 24], "num_heads": 2}  # of the rows with four stages


def attention_of(model, stage):
    return [layer for layer in model.stages[stage].modules() if isinstance(layer, TokenAttention)]


def test_a_stage_s_settings_stay_in_it():
    """Of kinds, windows, features and global tokens given one a stage, none reaches the next."""
    model = halonet.create_model(
        "msvit_small_1_2_8_1_224",
        width=[8, 16, 16, 24],
        num_heads=[1, 2, 2, 3],
        attention=["vil", "linformer", "vil", "full"],
        window=[5, 15, 9, 15],
        num_features=[256, 7, 256, 256],
        num_global=[0, 3, 1, 2],
    )
    kinds = [LongformerAttention, LinformerAttention, LongformerAttention, FullAttention]
    for index, kind in enumerate(kinds):
        layers = attention_of(model, index)
        assert len(layers) == (1, 2, 8, 1)[index]
        assert {type(layer) for layer in layers} == {kind}
        assert {layer.num_global for layer in layers} == {(0, 3, 1, 2)[index]}
    assert [attention_of(model, index)[0].window for index in (0, 2)] == [5, 9]
    assert attention_of(model, 1)[0].num_features == 7
    assert model(torch.randn(1, 3, 224, 224)).shape == (1, 1000)


@pytest.mark.parametrize("size", [(64, 96), (37, 50), (5, 5)])
@pytest.mark.parametrize("create", [halonet.create_model, timm.create_model])
def test_features_at_any_size(create, size):
    model = create("vil_small_224", features_only=True, attention="vil", window=7, **SMALL).eval()
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    assert model.feature_info.channels() == [8, 16, 16, 24]
    maps = model(torch.randn(2, 3, *size))
    for map_, channels, reduction in zip(maps, (8, 16, 16, 24), (4, 8, 16, 32), strict=True):
        assert map_.shape == (2, channels, *(-(-side // reduction) for side in size))
    assert [info.shape[1] for info in create("vil_small_224", features_only=True, out_indices=(1, 3), **SMALL).eval()(
        torch.randn(1, 3, 32, 32)
    )] == [16, 24]  # fmt: skip


@torch.no_grad()
def test_intermediates_and_the_norm():
    model = halonet.create_model(NANO).eval()
    image = torch.randn(2, 3, 32, 32)
    tokens, maps = model.forward_intermediates(image)
    torch.testing.assert_close(tokens, model.forward_features(image))
    normed = model.forward_intermediates(image, norm=True, intermediates_only=True)
    torch.testing.assert_close(normed[0], maps[0])
    torch.testing.assert_close(normed[1], tokens.mT.unflatten(2, (8, 8)))
    assert not torch.allclose(normed[1], maps[1])
    early, first = model.forward_intermediates(image, indices=[0], stop_early=True)
    torch.testing.assert_close(first, maps[:1])
    torch.testing.assert_close(model.stages[0].to_map(early, (16, 16)), maps[0])
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW', got 'NLC'"):
        model.forward_intermediates(image, output_fmt="NLC")


@torch.no_grad()
def test_pooling():
    """The mean of all tokens, or the class token of a flat model."""
    options = {"depth": 1, "width": 12, "num_heads": 2, "num_classes": 3}
    mean = halonet.create_model("evit_tiny_224", **options).eval()
    token = halonet.create_model("evit_tiny_224", global_pool="token", **options).eval()
    none = halonet.create_model("evit_tiny_224", global_pool="", **options).eval()
    for other in (token, none):
        other.load_state_dict(mean.state_dict())
    image = torch.randn(2, 3, 48, 32)
    tokens = mean.forward_features(image)
    assert tokens.shape == (2, 1 + 6, 12)
    torch.testing.assert_close(mean(image), mean.head.fc(tokens.mean(1)))
    torch.testing.assert_close(token(image), mean.head.fc(tokens[:, 0]))
    torch.testing.assert_close(none(image), mean.head.fc(tokens))
    with pytest.raises(ValueError, match="num_global=0"):
        halonet.create_model(NANO, global_pool="token")
    with pytest.raises(ValueError, match="global_pool must be one of avg, token, , got 'max'"):
        halonet.create_model(NANO, global_pool="max")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "swin"}, "attention must be one of vil, full, global, linformer, sra, performer, got 'swin'"),
        ({"attention": "sra"}, 'position must be "absolute" or "none" for attention=\'sra\''),
        ({"position": "learned"}, "position must be one of relative, absolute, none"),
        ({"window": [5, 6]}, "window must be an odd int of at least 3, got 6"),
        ({"windows": 5}, "unknown model option 'windows'; did you mean window"),
        ({"patch_size": 0}, "patch_size must be a positive int"),
        ({"mlp_ratio": 0}, "mlp_ratio must be a positive number, got 0"),
        ({"num_heads": [2, 3, 4]}, "num_heads must be one value or a list of 2"),
    ],
    ids=str,
)
def test_refuses_options(options, message):
    with pytest.raises(ValueError, match=message):
        halonet.create_model(NANO, **options)


def test_several_options_of_a_stage_may_need_each_other():
    model = halonet.create_model(NANO, attention="performer", position="absolute")
    assert {stage.attention for stage in model.config.stages} == {"performer"}


def test_weights_at_another_size(tmp_path):
    """Absolute tables, bias tables of a map and of a window: each interpolated to the other model's."""
    path = tmp_path / "weights.safetensors"
    save_weights(halonet.create_model("vil_medium_224", **SMALL), path)
    larger = halonet.create_model("vil_medium_384", **SMALL)
    report = load_weights(larger, path)
    assert {name.split(".")[1] for name in report.resized} == {"0", "1", "2", "3"}
    assert all(name.endswith("bias_table") for name in report.resized)
    assert larger.stages[3].blocks[0].attn.bias_table.shape == (2, 23, 23)
    save_weights(halonet.create_model(NANO, position="absolute"), path)
    same, _ = load_model(path)
    assert same.config.stages[0].position == "absolute"
    report = load_weights(halonet.create_model(NANO, position="absolute", img_size=(48, 40)), path)
    assert {name.rpartition(".")[2] for name in report.resized} == {"height_table", "width_table"}


@pytest.mark.parametrize("checkpoint", [False, True])
def test_recomputed_blocks_give_the_same_gradients(checkpoint):
    model = halonet.create_model(NANO)
    model.set_grad_checkpointing(checkpoint)
    torch.manual_seed(1)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    model.zero_grad()
    image = torch.randn(1, 3, 32, 32)
    expected = torch.autograd.grad(model(image).sum(), list(model.parameters()))
    model.set_grad_checkpointing(not checkpoint)
    for got, one in zip(torch.autograd.grad(model(image).sum(), list(model.parameters())), expected, strict=True):
        torch.testing.assert_close(got, one)


EVERY = [
    {},
    {"attention": "full"},
    {"attention": "global", "position": "absolute", "num_global": [4, 2]},
    *({"attention": kind, "position": "absolute"} for kind in ("linformer", "sra", "performer")),
]


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_compiles_to_one_graph(options):
    torch._dynamo.reset()
    model = halonet.create_model(NANO, depth=1, **options)
    image = torch.randn(2, 3, 32, 32)

    def results(network):
        output = network(image)
        return [output, *torch.autograd.grad(output.sum(), list(model.parameters()))]

    expected = results(model)
    torch.testing.assert_close(results(torch.compile(model, fullgraph=True, backend="aot_eager")), expected)
    torch._dynamo.reset()


@torch.no_grad()
@pytest.mark.parametrize("options", EVERY, ids=str)
def test_exports(options):
    model = halonet.create_model(NANO, depth=1, **options).eval()
    image = torch.randn(2, 3, 32, 32)
    program = torch.export.export(model, (image,))
    torch.testing.assert_close(program.module()(image), model(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", EVERY, ids=str)
def test_mixed_precision(options):
    """Close to single precision under autocast, and every gradient finite."""
    model = halonet.create_model(NANO, **options)
    image = torch.randn(2, 3, 32, 32)
    expected = model(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(image)
    torch.testing.assert_close(output.float(), expected, rtol=0.1, atol=0.05)
    output.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_layer_depths_for_learning_rates():
    """timm's layer decay finds a depth for every parameter."""
    model = halonet.create_model(NANO)
    groups = param_groups_layer_decay(model, weight_decay=0.1, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert len({group["lr_scale"] for group in groups}) > 3


def of_the_authors(model, *, fused, count):
    """The model's weights under the names of the authors' public code, as it saves them."""
    state = {}
    for name, tensor in model.state_dict().items():
        if not name.startswith("stages."):
            state[name.replace("head.fc", "head")] = tensor
            continue
        _, stage, kind, *rest = name.split(".")
        layer = f"layer{int(stage) + 1}"
        if kind == "embedding":
            part = {"proj": "proj", "norm": "norm_embed"}[rest[0]]
            state[f"{layer}.0.{part}.{rest[1]}"] = tensor
        elif kind == "global_tokens":
            state[f"{layer}.0.cls_token"] = tensor[None]
        elif kind == "position":
            own = {"height_table": "x_pos_embed", "width_table": "y_pos_embed", "global_table": "cls_pos_embed"}
            state[f"{layer}.0.{own[rest[0]]}"] = tensor[None]
        else:
            block = int(rest[0])
            number = 2 * block + (2 if rest[1] in ("norm2", "mlp") else 1)
            key = ".".join(rest[1:]).replace("norm1", "norm").replace("norm2", "norm")
            key = key.replace("key_value", "kv").replace("attn.reduce", "attn.proj_sr")
            key = key.replace("mix_key", "proj_k").replace("features", "fast_attention.projection_matrix")
            if key.endswith("bias_table"):
                key, tensor = "attn.local_relative_position_bias_table", tensor.flip(1, 2).flatten(1).t()
            key = key.replace("global_local_bias", "g2l_relative_position_bias")
            key = key.replace("global_bias", "g2g_relative_position_bias")
            state[f"{layer}.{number}.{key}"] = tensor
            if key == "attn.proj_k":
                state[f"{layer}.{number}.attn.proj_v"] = tensor
            if ".local_relative" in key:
                state[f"{layer}.{number}.attn.relative_position_index"] = torch.zeros(2, 2, dtype=torch.int64)
    for key in [key for key in state if ".attn.query." in key]:
        if fused(key):
            both = state.pop(key), state.pop(key.replace("query", "kv"))
            state[key.replace("query", "qkv")] = torch.cat(both)
        elif count:
            for part in ("query", "kv", "proj"):
                state[key.replace("query", f"{part}_global")] = state[key.replace("query", part)]
    return state


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"position": "absolute"},
        {"position": "absolute", "attention": "performer"},
        {"position": "absolute", "attention": "linformer"},
        {"position": "absolute", "attention": "sra", "reduction": 2},
        {"attention": "full", "num_global": [2, 1]},
    ],
    ids=str,
)
def test_weights_of_the_authors(options):
    model = halonet.create_model(NANO, **options).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    attention = options.get("attention", "vil")
    fused = lambda key: attention in ("full", "performer")  # noqa: E731
    state = of_the_authors(model, fused=fused, count=attention == "vil")
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    assert ("module.layer1.1.attn.kv_global.weight" in state) == (attention == "vil")
    other = halonet.create_model(NANO, **options).eval()
    other.load_state_dict(convert_vil(state))
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(other(image), model(image), rtol=0, atol=0)


def test_weights_of_others_are_refused():
    with pytest.raises(ValueError, match=r"got a tensor named 'layer1\.0\.conv1\.weight'"):
        convert_vil({"layer1.0.conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"got a tensor named 'stem\.conv\.weight'"):
        convert_vil({"stem.conv.weight": torch.zeros(1)})
    own = {"layer1.1.attn.query.weight": torch.zeros(2), "layer1.1.attn.query_global.weight": torch.ones(2)}
    with pytest.raises(ValueError, match="global tokens must share their projections"):
        convert_vil(own)
    values = convert_vil({"layer1.1.attn.proj_k": torch.zeros(2, 2), "layer1.1.attn.proj_v": torch.ones(2, 2)})
    assert set(values) == {"stages.0.blocks.0.attn.mix_key", "stages.0.blocks.0.attn.mix_value"}
