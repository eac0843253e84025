"""The paper's tables of complexity beside what layers of ours do, and the figures that it quotes worked out again."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from halonet.analysis.complexity import (
    COUNTINGS,
    MODULES,
    QUANTITIES,
    Complexity,
    Sizes,
    complexity,
    facts,
    order_in_positions,
    quoted_figures,
    simplified,
)
from halonet.analysis.complexity_plot import bert_costs, map_costs, plot_complexity
from halonet.analysis.speed.measuring import write_report
from halonet.analysis.speed.memory import MIB, Call, Meter, memory_meter
from halonet.layers import FactorizedAttention, NonLocal

PEAK_LIMIT = 2**31  # bytes by the closed form beyond which no pass is run for its peak; it needs up to twice of them
FORMS = {"dot": "dot", "bot": "bot", "multi": "multi", "Tfm": "transformer"}

# What an operation of torch is to the table; any other is "others".
_KINDS = {
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "convolution"), "products"),
    "add": "sums",
    "relu": "activations",
    "native_layer_norm": "norms",
    **dict.fromkeys(("div", "mul"), "scalings"),
    **dict.fromkeys(("clone", "copy", "_to_copy"), "copies"),
}


@dataclass(frozen=True)
class Measured:
    """What one forward pass of a layer does, with one input in single precision.

    macc: of matrix products and convolutions, 2 a multiply-add.
    allocated: bytes of all tensors that the pass makes, each storage once, whether or not it is freed on the way. The
        closed forms have no place for some: queries, basis or map divided by b ("scalings"), heads put side by side
        again ("copies"), and of a Transformer's layer its norms and the ReLU inside.
    by_kind: the same by what made them: "products", "sums", "activations", "norms", "scalings", "copies", "others".
    named: bytes of those that Table 9 has a term for: products and the residual's sums, and activations of ResBlocks.
    peak: bytes that the pass needs at most at once beside input and weights; less than `allocated` where tensors are
        freed on the way. None where it was not measured.
    """

    macc: int
    allocated: int
    by_kind: dict[str, int]
    named: int
    peak: int | None = None


class _ResBlock(nn.Module):
    """x + two 3x3 convolutions, or 1x1, 3x3 and 1x1 ones, with a ReLU after each and after the sum, and no norm."""

    def __init__(self, channels: int, inner: int | None) -> None:
        super().__init__()
        if inner is None:
            widths, kernels = [channels, channels, channels], [3, 3]
        else:
            widths, kernels = [channels, inner, inner, channels], [1, 3, 1]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, following, kernel, padding=kernel // 2, bias=False)
            for width, following, kernel in zip(widths, widths[1:], kernels, strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        y = self.convolutions[0](x)
        for convolution in list(self.convolutions)[1:]:
            y = convolution(y.relu())
        return (x + y).relu()


class _Allocations(TorchDispatchMode):
    """Bytes of the storages that operations make, by kind. Those of `given` tensors are not counted."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self._seen = {_storage_of(tensor) for tensor in given}
        self._kept = list(given)  # a storage that is freed would give its address to the next
        self.by_kind: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = _KINDS.get(func._schema.name.split("::")[-1].rstrip("_"), "others")
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _storage_of(tensor) not in self._seen:
                self._seen.add(_storage_of(tensor))
                self._kept.append(tensor)
                self.by_kind[kind] = self.by_kind.get(kind, 0) + tensor.untyped_storage().nbytes()
        return result


def _storage_of(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def build(module: str, sizes: Sizes) -> tuple[nn.Module, Tensor]:
    """A layer of ours that is that module of Table 9, without biases, and an input for it.

    Attention is of the kind "dot", which the formulas describe, on tokens (1, S, C); conventional attention writes its
    whole map. A ResBlock, of plain convolutions and ReLUs, takes a map (1, C, H, W) of S pixels.

    Raises:
        ValueError: an unknown module, or sizes that its layer does not take.
    """
    complexity(module, sizes)  # knows the names
    family, _, form = module.partition("-")
    if family == "ResBlock":
        height = next(side for side in range(math.isqrt(sizes.positions), 0, -1) if sizes.positions % side == 0)
        x = torch.randn(1, sizes.channels, height, sizes.positions // height)
        return _ResBlock(sizes.channels, sizes.value if form else None), x
    options: dict[str, Any] = {"form": FORMS[form], "kind": "dot", "channels": sizes.basis, "bias": False}
    options["value_channels"] = sizes.channels if form == "dot" else sizes.value
    options["num_heads"] = sizes.heads if form in ("multi", "Tfm") else 1
    x = torch.randn(1, sizes.positions, sizes.channels)
    if family == "FA":
        return FactorizedAttention(sizes.channels, **options), x
    return NonLocal(sizes.channels, backend="materialized", **options), x


def measure(module: str, sizes: Sizes, *, run: bool = True, meter: Meter | None = None) -> Measured:
    """Counts one forward pass of a layer as torch sees it; what to hold a closed form against.

    Args:
        module: a key of MODULES.
        sizes: of the input and inside.
        run: with numbers; if False with tensors that have shapes but no memory, which counts the same at any size.
        meter: of `halonet.analysis.speed.memory.memory_meter`, to measure the peak with, in a pass that always runs.

    Raises:
        ValueError: as `build`.
    """
    with nullcontext() if run else FakeTensorMode(), torch.no_grad():
        layer, x = build(module, sizes)
        allocations = _Allocations([x, *layer.parameters()])
        with FlopCounterMode(display=False) as products, allocations:
            layer(x)
    by_kind = dict(sorted(allocations.by_kind.items()))
    named = ("products", "sums", "activations") if module.startswith("ResBlock") else ("products", "sums")
    peak = meter(partial(_pass_of, module, sizes)) if meter else None
    return Measured(
        macc=products.get_total_flops(),
        allocated=sum(by_kind.values()),
        by_kind=by_kind,
        named=sum(by_kind.get(kind, 0) for kind in named),
        peak=None if peak is None else round(peak * MIB),
    )


def _pass_of(module: str, sizes: Sizes) -> Call:
    layer, x = build(module, sizes)
    return torch.no_grad()(partial(layer, x))


def complexity_report(
    *,
    side: int = 64,
    channels: int = 64,
    basis: int = 32,
    value: int | None = None,
    heads: int = 2,
    measure: bool = True,
    peak: bool = False,
) -> dict[str, Any]:
    """Everything that can be said of the paper's complexities, ready for JSON.

    Args:
        side: of the square map, in pixels; s is its square.
        channels: c, of the map.
        basis: b and k, channels of basis and keys.
        value: m, channels of values in the forms with a value bottleneck; basis if None.
        heads: of the multi-head forms.
        measure: count passes of our layers as well, from shapes alone.
        peak: run passes as well, each in another process, for the most memory they need; on Linux, and where the
            closed form is less than 2 GiB.

    Returns:
        "sizes"; "modules", a row a module of Table 9 with "paper", "consistent" and "measured"; "simplified", the
        entries of Tables 10 and 11; "quoted", see `quoted_figures`; "formula_slips" and "other_slips" of the paper;
        "map_costs" and "bert_costs", figures 4 and 5 as printed formulas give them. Memory in bytes.

    Raises:
        ValueError: numbers out of their range.
    """
    if isinstance(side, bool) or not isinstance(side, int) or side < 1:
        raise ValueError(f"side must be a positive int, got {side!r}")
    sizes = Sizes(side**2, channels, basis, basis if value is None else value, heads)
    with memory_meter(torch.device("cpu")) if measure and peak else nullcontext() as meter:
        modules = [_module_row(name, sizes, measured=measure, meter=meter) for name in MODULES]
    return {
        "sizes": asdict(sizes),
        "countings": COUNTINGS,
        "modules": modules,
        "simplified": [
            {**asdict(entry), "printed": entry.printed.text} for table in (10, 11) for entry in simplified(table)
        ],
        "quoted": quoted_figures(),
        "formula_slips": facts()["formula_slips"],
        "other_slips": facts()["other_slips"],
        "map_costs": map_costs(channels=channels, basis=basis),
        "bert_costs": bert_costs(),
    }


def _module_row(name: str, sizes: Sizes, *, measured: bool, meter: Meter | None) -> dict[str, Any]:
    row: dict[str, Any] = {"module": name, "orders": dict(zip(QUANTITIES, order_in_positions(name), strict=True))}
    for counting, entry in MODULES[name].items():
        formulas = {quantity: getattr(entry, quantity).text for quantity in QUANTITIES}
        row[counting] = {"formulas": formulas, **_counts(complexity(name, sizes, counting=counting))}
    row["measured"] = None
    if measured:
        if row["consistent"]["memory"] > PEAK_LIMIT:
            meter = None
        row["measured"] = asdict(measure(name, sizes, run=False, meter=meter))
    return row


def _counts(cost: Complexity) -> dict[str, int]:
    return {"memory": cost.bytes, "macc": cost.macc}


def print_report(report: Mapping[str, Any]) -> None:
    """Prints what `complexity_report` gives."""
    sizes = report["sizes"]
    print(
        f"Table 9: s = {sizes['positions']} positions, c = {sizes['channels']}, b = k = {sizes['basis']}, "
        f"m = {sizes['value']}, h = {sizes['heads']}; single precision, forward, one input\n"
    )
    _print_modules(report["modules"])
    print("\nFigures that the text quotes, by Table 9 and by consistent counting\n")
    _print_quoted(report["quoted"])
    print("\nSlips of the paper\n")
    for slip in report["formula_slips"]:
        print(f"Table {slip['table']}, {slip['module']}, {slip['quantity']}: {slip['printed']}, consistently")
        print(f"    {slip['consistent']}")
        _print_note(slip["why"])
    for slip in report["other_slips"]:
        print(f"{slip['where']}: {slip['printed']}; should be: {slip['should']}")
        _print_note(slip["why"])


def _print_modules(rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"{'':14}{'memory, MB':>40}{'computation, GMACC':>43}{'order in s':>16}")
    heads = ("Table 9", "consist.", "named", "allocated", "peak", "Table 9", "consist.", "measured", "mem.", "macc")
    print(f"{'module':14}" + "".join(f"{head:>{6 if i > 7 else 10}}" for i, head in enumerate(heads)))
    for row in rows:
        measured = row["measured"] or {}
        memory = [row[counting]["memory"] for counting in COUNTINGS]
        memory += [measured.get(name) for name in ("named", "allocated", "peak")]
        macc = [*(row[counting]["macc"] for counting in COUNTINGS), measured.get("macc")]
        cells = [*(_cell(number, 1e6) for number in memory), *(_cell(number, 1e9) for number in macc)]
        print(f"{row['module']:14}{''.join(cells)}{row['orders']['memory']:6}{row['orders']['macc']:6}")
    print(
        "\nnamed: results of products and residual sums (and a ResBlock's ReLUs), which Table 9 has terms for; "
        "allocated: all\nthat the pass makes; peak: the most of it at once, in a process of its own."
    )


def _cell(number: float | None, scale: float) -> str:
    return f"{'-':>10}" if number is None else f"{number / scale:10.3f}"


def _print_quoted(rows: Sequence[Mapping[str, Any]]) -> None:
    signs = {"over": ">", "under": "<", "about": ""}
    print(f"{'figure':50}{'published':>16}{'Table 9':>10}{'consist.':>10}  verdict")
    for row in rows:
        published = f"{signs[row['relation']]}{row['published']:g} {row['unit']}"
        ours = "".join(f"{row['ours'][counting]:10.5g}" for counting in COUNTINGS)
        print(f"{row['figure']:50}{published:>16}{ours}  {row['verdict']}")
        if "note" in row:
            _print_note(row["note"])
        for other in row["otherwise"]:
            _print_note(f"{other['what']}: {other['ours']:.5g} {other['unit']}")


def _print_note(text: str) -> None:
    print(textwrap.fill(text, 110, initial_indent="    ", subsequent_indent="    "))


def run_complexity(
    *,
    side: int = 64,
    channels: int = 64,
    basis: int = 32,
    value: int | None = None,
    heads: int = 2,
    measure: bool = True,
    json: Path | None = None,
    png: Path | None = None,
) -> None:
    """Prints the report, and writes it as JSON and as a picture where a file is asked for.

    Args:
        side, channels, basis, value, heads: as in `complexity_report`.
        measure: our layers as well, and the memory that they need at most.
        json: file for the report.
        png: file for figures 4 and 5, drawn anew.

    Raises:
        ValueError: numbers out of their range.
    """
    report = complexity_report(
        side=side, channels=channels, basis=basis, value=value, heads=heads, measure=measure, peak=measure
    )
    print_report(report)
    write_report(report, json)
    if png:
        plot_complexity(report, png)
