"""How the layer runs: memory formats, precisions, compilers, and what it refuses."""

import pytest
import torch

from halonet.layers import HaloAttention


def layer_with(**options):
    return HaloAttention(8, **{"num_heads": 2, "block_size": 4, "halo_size": 1, "feat_size": (8, 8), **options})


@pytest.mark.parametrize("relative", ["split", "absolute"])
@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"stride": 2, "downsample": "pool"}])
def test_memory_formats_agree(options, relative):
    layer = layer_with(relative=relative, **options)
    image = torch.randn(2, 8, 9, 6)
    expected = layer(image)
    layer = layer.to(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(image.contiguous(memory_format=torch.channels_last)), expected)


def test_heads_are_views():
    """Splitting the heads of channels_last maps copies nothing."""
    image = torch.randn(2, 8, 8, 8).contiguous(memory_format=torch.channels_last)
    layer = layer_with().to(memory_format=torch.channels_last)
    for projected in layer.project(image):
        assert projected.stride(-1) == 1
        assert projected._base is not None


@pytest.mark.parametrize("relative", ["split", "full", "absolute", "none"])
def test_autocast(relative):
    """Under autocast the layer answers in bfloat16 near the float32 answer; parameters get float32 gradients."""
    layer = layer_with(relative=relative)
    image = torch.randn(2, 8, 8, 8, requires_grad=True)
    expected = layer(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = layer(image)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=0.05, atol=0.05)
    output.float().pow(2).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"relative": "absolute"}, {"stride": 2, "window": 3}])
def test_half_precision(options, dtype):
    """A layer of half precision answers near the float64 layer of the same rounded weights."""
    layer = layer_with(dtype=dtype, **options)
    image = torch.randn(2, 8, 6, 10).to(dtype)
    exact = layer_with(dtype=torch.float64, **options)
    exact.load_state_dict(layer.state_dict())
    output = layer(image)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), exact(image.double()), rtol=0.05, atol=0.05)
    output.float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_absolute_tables_keep_double_precision():
    """Interpolated at another size, in float64: gradients to the accuracy of that precision."""
    layer = layer_with(relative="absolute", dtype=torch.float64, feat_size=(3, 4))
    image = torch.randn(1, 8, 4, 3, dtype=torch.float64)

    def with_tables(height_table, width_table):
        tables = {"height_table": height_table, "width_table": width_table}
        return torch.func.functional_call(layer, tables, (image,))

    assert torch.autograd.gradcheck(with_tables, (layer.height_table, layer.width_table))


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize(
    "options",
    [{}, {"relative": "full", "stride": 2}, {"relative": "absolute"}, {"window": 3, "stride": 2, "downsample": "pool"}],
)
def test_compiles_to_one_graph(options):
    """Forward and backward, on a map that blocks do not divide. A graph break would raise."""
    layer = layer_with(**options)
    image = torch.randn(2, 8, 7, 10, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for function in (layer, compiled):
        output = function(image)
        results.append([output, *torch.autograd.grad(output.pow(2).sum(), [image, *layer.parameters()])])
    torch.testing.assert_close(results[1], results[0])


@pytest.mark.parametrize("options", [{}, {"stride": 2, "relative": "full"}, {"relative": "absolute"}])
def test_exports(options):
    layer = layer_with(**options).eval()
    image = torch.randn(2, 8, 7, 10)
    program = torch.export.export(layer, (image,))
    torch.testing.assert_close(program.module()(image), layer(image))


def test_runs_on_the_meta_device():
    """Shapes without numbers, as tools that count or plan memory want them."""
    layer = layer_with(stride=2, device="meta")
    assert layer(torch.empty(2, 8, 9, 9, device="meta")).shape == (2, 8, 5, 5)


def test_prints_its_options():
    text = repr(layer_with(stride=2, window=3, halo_size=(2, 1)))
    for part in ("num_heads=2", "block_size=(4, 4)", "halo_size=(2, 1)", "stride=2", "relative='split'", "window=3"):
        assert part in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads=3"),
        ({"num_heads": 0}, "num_heads must be"),
        ({"value_multiplier": 0.1}, r"value_multiplier \* dim must be a multiple of num_heads=2"),
        ({"value_multiplier": 0.0}, "value_multiplier"),
        ({"query_key_multiplier": 0.3}, r"query_key_multiplier \* dim"),
        ({"block_size": 0}, "block_size must be"),
        ({"block_size": 2.5}, "block_size must be"),
        ({"block_size": (4, 4, 4)}, "block_size must be"),
        ({"halo_size": -1}, "halo_size must be"),
        ({"halo_size": "wide"}, "halo_size must be"),
        ({"stride": 0}, "stride must be"),
        ({"stride": 3}, "block_size must be a multiple of stride=3"),
        ({"relative": "learned"}, "relative must be one of split, full, absolute, none, got 'learned'"),
        ({"downsample": "max"}, "downsample must be one of query, pool, got 'max'"),
        ({"window": 4}, "window must be an odd positive int"),
        ({"border": "reflect"}, "border must be one of zeros, mask, circular, got 'reflect'"),
        ({"backend": "cuda"}, "backend must be one of auto, .*, got 'cuda'"),
        ({"relative": "absolute", "feat_size": None}, "feat_size must be given"),
        ({"relative": "absolute", "feat_size": (0, 8)}, "feat_size must be"),
    ],
    ids=str,
)
def test_refuses_when_it_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        layer_with(**options)


def test_refuses_an_empty_map():
    with pytest.raises(ValueError, match="must not be empty"):
        layer_with()(torch.randn(0, 8, 4, 4))


def test_an_exported_program_holds_torchs_own_operators_only():
    """So that it runs where halonet is not installed."""
    layer = HaloAttention(8, num_heads=2, block_size=4, halo_size=1).eval()
    program = torch.export.export(layer, (torch.randn(1, 8, 8, 8),))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert called
    assert not any("halonet" in name for name in called)
