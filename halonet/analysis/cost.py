"""Parameters and multiply-adds of a model, module by module: what really runs, and what the papers would count.

One multiply-accumulate counts 1 (half of what torch's FlopCounterMode reports). Counted are convolutions of two and
three dimensions, linear layers and the products of attention: q.k, q.r and weights.v. Norms, activations, softmax,
pooling and additions are not, as in every paper of the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from halonet.analysis.token_cost import executed_products, paper_products, uncounted_tokens
from halonet.layers import (
    AttentionLayer,
    LongformerAttention,
    NonLocal,
    NonLocal2d,
    PerformerAttention,
    TokenAttention,
    WholeMapAttention,
)
from halonet.models.psmnet import PSMNet
from halonet.ops.local_attention.checks import pair
from halonet.ops.local_attention.geometry import Axis

# A paper's own way of counting, by name. All count multiply-adds over the queries of the map alone (not of its
# extension to whole blocks), and q.r for 2k - 1 offsets an axis, k = block + 2 * halo.
CONVENTIONS = {
    "halonet": "every parameter, batch norm included, and 2k - 1 rows a position table although 2 * halo are unused",
    "botnet": "weights of convolutions and linear layers and the classifier's bias; no norms, tables or other biases",
    "vil": "every parameter and a Performer's random features; (2w + 1)^2 keys of a window of 2w + 1, no class token",
}


_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Count:
    """Parameters, and multiply-adds for one image, or one pair."""

    parameters: int = 0
    multiply_adds: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.parameters + other.parameters, self.multiply_adds + other.multiply_adds)


@dataclass(frozen=True)
class ModuleCost:
    """What one module itself costs, its children left out.

    name: as in `named_modules`.
    kind: name of its class.
    input_size, output_size: last two dimensions, (H, W) of a map, at its first call; None if it never ran.
    calls: how often one forward pass runs it.
    executed: what it has and does. Attention is counted as the reference backend runs it: padded queries, whole
        neighbourhoods, position terms over the full width of a head.
    by_convention: the same by each of `CONVENTIONS`.
    """

    name: str
    kind: str
    input_size: tuple[int, int] | None
    output_size: tuple[int, int] | None
    calls: int
    executed: Count
    by_convention: dict[str, Count]


@dataclass(frozen=True)
class ModelCost:
    """What one forward pass of a model costs.

    modules: every module that has any cost, in the order of `named_modules`.
    input_size: (channels, height, width) of the image.
    """

    modules: tuple[ModuleCost, ...]
    input_size: tuple[int, int, int]

    def total(self, *, convention: str | None = None, under: str = "") -> Count:
        """The sum, of what runs or by a convention, of the whole model or of what lies under a module's name.

        Raises:
            ValueError: an unknown convention.
        """
        if convention is not None and convention not in CONVENTIONS:
            raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)} or None, got {convention!r}")
        inside = [cost for cost in self.modules if not under or f"{cost.name}.".startswith(f"{under}.")]
        return sum((c.executed if convention is None else c.by_convention[convention] for c in inside), Count())


@dataclass
class _Record:
    """What a forward pass showed of a module: shapes of its first call, and multiply-adds of all."""

    input_shape: torch.Size | None = None
    output_shape: torch.Size | None = None
    calls: int = 0
    executed: int = 0
    paper: int = 0


def count_costs(model: nn.Module, *, input_size: tuple[int, int, int] | None = None) -> ModelCost:
    """Counts a model from the shapes of one forward pass in which nothing is computed.

    Args:
        model: of convolutions, linear layers, `AttentionLayer`s, `TokenAttention`s, `WholeMapAttention`s and
            `NonLocal2d`; on any device, left as it was; a stereo network is given a pair. Multiplications in modules of
            other kinds are not seen.
        input_size: (channels, height, width) of the image; by default that of the model's `default_cfg`.

    Raises:
        ValueError: no input_size where the model has no `default_cfg`, or one that is not three positive ints.
    """
    shape = _checked_size(model, input_size)
    records = {name: _Record() for name, _ in model.named_modules()}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    on_meta = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors}
    with _shapes_only(model, records), torch.no_grad():
        images = (torch.empty(1, *shape, device="meta"),) * (2 if isinstance(model, PSMNet) else 1)
        functional_call(model, on_meta, images)
    seen: set[int] = set()
    costs = [_module_cost(name, module, records[name], seen) for name, module in model.named_modules()]
    return ModelCost(tuple(cost for cost in costs if cost.calls or cost.executed.parameters), shape)


def attention_axes(layer: AttentionLayer | LongformerAttention, size: tuple[int, int]) -> tuple[Axis, Axis]:
    """How a layer cuts a map of (H, W) into blocks, along its height and its width."""
    if isinstance(layer, LongformerAttention):
        options = layer.neighborhood(size)
        block, halo = (pair(name, options[name], minimum=0) for name in ("block_size", "halo_size"))
        seen = options["border"], options.get("window"), options.get("dilation", 1)
        rows, columns = (Axis(size[i], block[i], halo[i], 1, 1, *seen) for i in range(2))
        return rows, columns
    height, width = (
        Axis(
            size=pixels,
            block=block,
            halo=halo,
            stride=layer.query_stride,
            relative_stride=layer.query_stride,
            border=layer.border,
            window=layer.window,
        )
        for pixels, block, halo in zip(size, *layer.blocks_of(size), strict=True)
    )
    return height, width


def _checked_size(model: nn.Module, input_size: tuple[int, int, int] | None) -> tuple[int, int, int]:
    if input_size is None:
        config = getattr(model, "default_cfg", None)
        if config is None:
            raise ValueError(f"input_size must be given for a {type(model).__name__} without default_cfg, got None")
        input_size = config["input_size"]
    if len(input_size) != 3 or any(not isinstance(size, int) or size < 1 for size in input_size):
        raise ValueError(f"input_size must be (channels, height, width), each positive, got {input_size!r}")
    channels, height, width = input_size
    return channels, height, width


@contextmanager
def _shapes_only(model: nn.Module, records: dict[str, _Record]) -> Iterator[None]:
    """For one forward pass: modules in evaluation mode, each recording what it does, and attention that only says
    the shape of its output, since the pass needs no more and not every backend knows the meta device."""
    training = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        left_out = uncounted_tokens(model)
        for name, module in model.named_modules():
            attends = isinstance(module, AttentionLayer | NonLocal2d | WholeMapAttention)
            if attends or isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear, TokenAttention)):
                hook = _recorder(records[name], left_out.get(module, 0))
                stack.callback(module.register_forward_hook(hook).remove)
            if attends:
                # An attribute of the instance stands before the method of the class until it is deleted.
                object.__setattr__(module, "attend", _empty_output)
                stack.callback(object.__delattr__, module, "attend")
        model.eval()
        try:
            yield
        finally:
            for module, mode in training.items():
                module.training = mode


def _empty_output(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def _recorder(record: _Record, uncounted: int) -> Any:
    """A hook that records a call. uncounted: tokens that the papers leave out."""

    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if not record.calls:
            shape = None
            if isinstance(module, TokenAttention):  # its map is told beside its tokens
                shape = torch.Size((len(output), module.dim, *inputs[1]))
            record.input_shape, record.output_shape = shape or inputs[0].shape, shape or output.shape
        record.calls += 1
        if isinstance(module, AttentionLayer):
            record.executed += _executed_attention(module, inputs[0].shape)
            record.paper += _paper_attention(module, inputs[0].shape)
        elif isinstance(module, NonLocal2d | WholeMapAttention):
            shape = inputs[0].shape
            products = (
                _nonlocal_products(module, shape)
                if isinstance(module, NonLocal2d)
                else _whole_map_products(module, shape)
            )
            record.executed += products
            record.paper += products
        elif isinstance(module, _TRANSPOSED):
            products = inputs[0].numel() * prod(module.kernel_size) * module.out_channels // module.groups
            record.executed += products
            record.paper += products
        elif isinstance(module, _CONVOLUTIONS):
            kernel = prod(module.kernel_size) * module.in_channels // module.groups
            record.executed += output.numel() * kernel
            record.paper += output.numel() * kernel
        elif isinstance(module, nn.Linear):
            record.executed += output.numel() * module.in_features
            record.paper += (output.numel() - uncounted * len(output) * output.shape[-1]) * module.in_features
        elif isinstance(module, TokenAttention):
            record.executed += executed_products(module, len(output), inputs[1])
            record.paper += paper_products(module, len(output), inputs[1])

    return hook


def _executed_attention(layer: AttentionLayer, shape: torch.Size) -> int:
    """Products of the reference backend: every query of the extended map with its whole neighbourhood."""
    axes = attention_axes(layer, (shape[-2], shape[-1]))
    queries = shape[0] * prod(axis.num_blocks * axis.queries_per_block for axis in axes)
    keys = prod(axis.neighborhood for axis in axes)
    has_tables = layer.relative in ("split", "full")
    position = sum(axis.neighborhood for axis in axes) * layer.dim_qk if has_tables else 0
    return queries * (keys * (layer.dim_qk + layer.dim_out) + position)


def _paper_attention(layer: AttentionLayer, shape: torch.Size) -> int:
    """The papers' formula: queries of the map, n_q * (k^2 * (d_qk + d_v) + (2k - 1) * table channels an axis).

    With pixel-centred windows k is the window, which has k offsets an axis.
    """
    axes = attention_axes(layer, (shape[-2], shape[-1]))
    queries = shape[0] * prod(axis.queries for axis in axes)
    keys = prod(axis.window or axis.neighborhood for axis in axes)
    position = 0
    if layer.relative in ("split", "full"):
        for axis, table in zip(axes, (layer.height_table, layer.width_table), strict=True):
            assert table is not None
            position += (axis.window or 2 * axis.neighborhood - 1) * table.shape[1] * layer.num_heads
    content = layer.dim_qk if layer.content else 0
    return queries * (keys * (content + layer.dim_out) + position)


def _nonlocal_products(layer: NonLocal2d, shape: torch.Size) -> int:
    """Both products of a non-local block, beside its convolutions; a dot product's are made in the cheaper order."""
    tokens, channels = shape[-2] * shape[-1], layer.theta.out_channels
    between = tokens if layer.kind == "gaussian" else min(tokens, channels)
    return 2 * shape[0] * tokens * between * channels


def _whole_map_products(layer: WholeMapAttention, shape: torch.Size) -> int:
    """Both products of attention as it runs, beside its linear layers: with a map of S x S, or with the context."""
    positions = shape[1] if len(shape) == 3 else prod(shape[2:])
    if isinstance(layer, NonLocal):
        return shape[0] * positions**2 * (layer.channels + layer.value_channels)
    return 2 * shape[0] * positions * layer.channels * layer.value_channels // layer.num_heads


def _module_cost(name: str, module: nn.Module, record: _Record, seen: set[int]) -> ModuleCost:
    own = [(key, tensor) for key, tensor in module.named_parameters(recurse=False) if id(tensor) not in seen]
    seen.update(id(tensor) for _, tensor in own)
    parameters = sum(tensor.numel() for _, tensor in own)
    return ModuleCost(
        name=name,
        kind=type(module).__name__,
        input_size=_last_two(record.input_shape),
        output_size=_last_two(record.output_shape),
        calls=record.calls,
        executed=Count(parameters, record.executed),
        by_convention={
            "halonet": Count(parameters + _dead_rows(module), record.paper),
            "botnet": Count(_weights(module, own), record.paper),
            "vil": Count(parameters + _random_features(module), record.paper),
        },
    )


def _dead_rows(module: nn.Module) -> int:
    """Entries of the 2 * halo rows of each table that a paper counts and no query can reach, which we do not store."""
    if not isinstance(module, AttentionLayer) or module.relative not in ("split", "full") or module.window is not None:
        return 0
    tables, halos = (module.height_table, module.width_table), module.blocks_of((1, 1))[1]
    return sum(2 * halo * table.shape[1] for halo, table in zip(halos, tables, strict=True) if table is not None)


def _random_features(module: nn.Module) -> int:
    """Of a Performer's layer: not learnt, but kept with what is."""
    return module.features.numel() if isinstance(module, PerformerAttention) else 0


def _weights(module: nn.Module, own: Iterable[tuple[str, Tensor]]) -> int:
    kept = (
        ("weight",)
        if isinstance(module, _CONVOLUTIONS)
        else ("weight", "bias")
        if isinstance(module, nn.Linear)
        else ()
    )
    return sum(tensor.numel() for key, tensor in own if key in kept)


def _last_two(shape: torch.Size | None) -> tuple[int, int] | None:
    return None if shape is None else (int(shape[-2]), int(shape[-1]))
