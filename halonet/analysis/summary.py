"""A model on one page: its stages, what they cost, and the published figures beside the totals."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from halonet.analysis.cost import CONVENTIONS, Count, ModelCost, ModuleCost, attention_axes, count_costs
from halonet.layers import AttentionLayer, LongformerAttention, TokenAttention
from halonet.models import create_model
from halonet.models.config import ResidualConfig, StageConfig
from halonet.models.facts import Figure, figures
from halonet.models.psmnet import PSMNet
from halonet.models.residual import ResidualNet
from halonet.models.vit import MultiScaleVit
from halonet.ops.local_attention.geometry import Axis

WIDTH = 110


@dataclass(frozen=True)
class View:
    """What consecutive attention layers of a stage see; sizes are (height, width) in pixels of their input map.

    layers: how many of them.
    map_size: the map they read.
    seen: most pixels of it that one query sees, less than the neighbourhood at the map's border.
    is_global: whether every query sees the whole map.
    """

    layers: int
    map_size: tuple[int, int]
    seen: tuple[int, int]
    is_global: bool


@dataclass(frozen=True)
class StageSummary:
    """A line of the table.

    name: "stem", "stage 1" and so on, "final" (the 1x1 to d_f) or "head".
    output_size: (height, width) of its map; None for the head.
    slot: what mixes pixels: "halo", "sasa" (pixel-centred windows), "mhsa", "conv", several of them, "+" what is
        inserted between blocks, the attention of a transformer's blocks, or "" where there is no slot.
    channels: of its output.
    neighborhood: pixels around and in a block, or the window; block_size and halo_size as the layers have them;
        None, as num_heads, without attention.
    views: what the attention layers see of their maps, in order.
    """

    name: str
    output_size: tuple[int, int] | None
    slot: str
    blocks: int
    channels: int
    parameters: int
    multiply_adds: int
    block_size: tuple[int, int] | None = None
    halo_size: tuple[int, int] | None = None
    neighborhood: tuple[int, int] | None = None
    num_heads: int | None = None
    views: tuple[View, ...] = ()


@dataclass(frozen=True)
class ModelSummary:
    """A model's stages, totals and published figures.

    name: as in `list_models`.
    overrides: options in which it differs from the row of that name.
    input_size: (channels, height, width) of the image.
    stages: stem, stages and head.
    total: parameters, and multiply-adds for one image, of what really runs.
    by_convention: the same as each paper would count.
    published: what the papers say of the row with these overrides (at this image size, as for multiply-adds).
    """

    name: str
    overrides: dict[str, Any]
    input_size: tuple[int, int, int]
    stages: tuple[StageSummary, ...]
    total: Count
    by_convention: dict[str, Count]
    published: tuple[Figure, ...]

    def render(self) -> str:
        """A plain text table of about 110 columns."""
        channels, height, width = self.input_size
        changed = "".join(f", {key}={value!r}" for key, value in self.overrides.items())
        title = f"{self.name}{changed}: images of {height}x{width} pixels, {channels} channels"
        lines = [title, "", *_table(self), "", *_published_lines(self)]
        return "\n".join(line.rstrip() for line in lines).rstrip()

    def to_json(self) -> str:
        """Everything, as JSON: sizes in pixels, parameters and multiply-adds as whole numbers, published in M and G."""
        return json.dumps({**asdict(self), "conventions": CONVENTIONS}, indent=2, default=str)


def summary(name: str, *, img_size: int | tuple[int, int] | None = None, **overrides: Any) -> ModelSummary:
    """Describes a model by name, without memory for its weights.

    Args:
        name: one of `halonet.list_models()`.
        img_size: side or (height, width) of the image in pixels; by default the row's own.
        overrides: further arguments of `halonet.create_model`.

    Raises:
        ValueError: an unknown model or option, an image size that is not positive, or `features_only`.
    """
    if img_size is not None and min(img_size if isinstance(img_size, tuple) else (img_size,)) < 1:
        raise ValueError(f"img_size must be positive, got {img_size!r}")
    with torch.device("meta"):
        model = create_model(name, img_size=img_size, **overrides)
    if not isinstance(model, ResidualNet | MultiScaleVit | PSMNet):
        raise ValueError(f"overrides must leave a whole classifier, got {overrides}")
    cost = count_costs(model)
    stages = {ResidualNet: _stages, MultiScaleVit: _token_stages, PSMNet: _stereo_stages}[type(model)]
    published = [figure for figure in figures(name) if _applies(figure, cost.input_size[1:], overrides)]
    return ModelSummary(
        name=name,
        overrides=overrides,
        input_size=cost.input_size,
        stages=tuple(stages(model, cost)),  # type: ignore[operator]
        total=cost.total(),
        by_convention={convention: cost.total(convention=convention) for convention in CONVENTIONS},
        published=tuple(published),
    )


def _applies(figure: Figure, size: tuple[int, int], overrides: dict[str, Any]) -> bool:
    same_size = figure.image_size is None or size == (figure.image_size, figure.image_size)
    return same_size and figure.options == overrides


def _stages(model: ResidualNet, cost: ModelCost) -> list[StageSummary]:
    """Stem, stages, final convolution and head."""
    config = model.config
    lines = [_plain("stem", cost, "stem", channels=config.stem_width)]
    for index, stage in enumerate(config.stages):
        lines.append(_stage(index, stage, model, cost))
    if config.head_width is not None:
        lines.append(_plain("final", cost, "final_conv", channels=config.head_width))
    if model.num_classes:
        lines.append(_plain("head", cost, "head", channels=model.num_classes))
    return lines


def _token_stages(model: MultiScaleVit, cost: ModelCost) -> list[StageSummary]:
    """Stages and head of a transformer; the last norm is the head's."""
    lines = []
    for index, stage in enumerate(model.config.stages):
        module = f"stages.{index}"
        total = cost.total(under=module)
        entries = [(model.get_submodule(entry.name), entry) for entry in _under(cost, module)]
        layers = [(layer, entry) for layer, entry in entries if isinstance(layer, TokenAttention)]
        local = [(layer, entry) for layer, entry in layers if isinstance(layer, LongformerAttention)]
        size = layers[0][1].input_size
        line: dict[str, Any] = {
            "name": f"stage {index + 1}",
            "output_size": size,
            "slot": stage.attention,
            "blocks": stage.depth,
        }
        line |= {"channels": stage.width, "num_heads": stage.num_heads}
        line |= {"parameters": total.parameters, "multiply_adds": total.multiply_adds}
        lines.append(StageSummary(**line, **_neighborhood(local)))
    head, norm = _plain("head", cost, "head", channels=model.num_classes), cost.total(under="norm")
    return [*lines, replace(head, parameters=head.parameters + norm.parameters)]


def _stereo_stages(model: PSMNet, cost: ModelCost) -> list[StageSummary]:
    """The parts of a stereo network; multiply-adds are those of both images."""
    config, features = model.config, "feature_network"
    lines = [_plain("stem", cost, f"{features}.stem", channels=config.width)]
    for index, cluster in enumerate(model.feature_network.clusters):
        module = f"{features}.clusters.{index}"
        channels = cluster[0].conv2.conv.out_channels  # type: ignore[index]
        line = _plain(f"cluster {index + 1}", cost, module, channels=channels)
        lines.append(replace(line, slot="conv", blocks=config.depths[index]))
    if config.attention != "none":
        total = cost.total(under=f"{features}.attention")
        sizes = {"output_size": lines[-1].output_size, "blocks": 1, "channels": lines[-1].channels}
        counts = {"parameters": total.parameters, "multiply_adds": total.multiply_adds}
        lines.append(StageSummary("attention", slot=config.attention, **sizes, **counts))  # type: ignore[arg-type]
    lines.append(_plain("pyramid", cost, f"{features}.pyramid", channels=len(config.pools) * config.width))
    lines.append(_plain("fuse", cost, f"{features}.fuse", channels=config.width))
    for name in ("entry", "residuals", "hourglasses", "heads"):
        if cost.total(under=name).parameters:
            blocks = 0 if name == "entry" else len(getattr(model, name))
            line = _plain(name, cost, name, channels=1 if name == "heads" else config.width)
            lines.append(replace(line, slot="conv 3D", blocks=blocks))
    return lines


def _neighborhood(layers: Sequence[tuple[AttentionLayer | LongformerAttention, ModuleCost]]) -> dict[str, Any]:
    """What a line says of local layers: block, halo, neighbourhood, views; nothing without any."""
    if not layers:
        return {}
    layer, entry = layers[0]
    assert entry.input_size is not None
    axes = attention_axes(layer, entry.input_size)
    return {
        "block_size": tuple(axis.block for axis in axes),
        "halo_size": tuple(axis.halo for axis in axes),
        "neighborhood": tuple(axis.window or axis.neighborhood for axis in axes),
        "views": tuple(_views(layers)),
    }


def _plain(label: str, cost: ModelCost, module: str, *, channels: int) -> StageSummary:
    total = cost.total(under=module)
    size = None if module == "head" else _last_output(cost, module)
    return StageSummary(label, size, "", 0, channels, total.parameters, total.multiply_adds)


def _stage(index: int, stage: StageConfig, model: ResidualNet, cost: ModelCost) -> StageSummary:
    module = f"stages.{index}"
    total = cost.total(under=module)
    line: dict[str, Any] = {
        "name": f"stage {index + 1}",
        "output_size": _last_output(cost, module),
        "slot": _slot_name(stage, None),
        "blocks": stage.depth,
        "channels": stage.width_out,
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
    }
    entries = [(model.get_submodule(entry.name), entry) for entry in _under(cost, module)]
    layers = [(layer, entry) for layer, entry in entries if isinstance(layer, AttentionLayer)]
    if layers:
        layer = layers[0][0]
        line |= {"slot": _slot_name(stage, layer), "num_heads": layer.num_heads, **_neighborhood(layers)}
    line["slot"] += _inserted(index, model.config)
    return StageSummary(**line)


def _slot_name(stage: StageConfig, layer: AttentionLayer | None) -> str:
    """The slots of a stage's blocks, each once, and what is inserted, after a plus."""
    own = ["sasa" if slot == "halo" and layer and layer.window else slot for slot in stage.slots]
    return "+".join([",".join(dict.fromkeys(own)), *dict.fromkeys(kind for _, kind in stage.inserts)])


def _inserted(index: int, config: ResidualConfig) -> str:
    """What attention of the whole map adds to the name of a stage's slot."""
    return f"+{config.attention}" if any(stage == index for stage, _ in config.attention_places) else ""


def _under(cost: ModelCost, module: str) -> list[ModuleCost]:
    return [entry for entry in cost.modules if entry.name.startswith(f"{module}.") and entry.calls]


def _last_output(cost: ModelCost, module: str) -> tuple[int, int] | None:
    """Size of the map that the last convolution along the main path of a module gives."""
    kinds = ("Conv2d", "Pointwise", "Conv3d", "ConvTranspose3d")
    maps = [entry for entry in _under(cost, module) if entry.kind in kinds and "squeeze_excite" not in entry.name]
    return maps[-1].output_size


def _views(layers: Sequence[tuple[AttentionLayer | LongformerAttention, ModuleCost]]) -> list[View]:
    """What the layers see, equal neighbours in one."""
    views: list[View] = []
    for layer, entry in layers:
        assert entry.input_size is not None
        axes = attention_axes(layer, entry.input_size)
        (most_high, least_high), (most_wide, least_wide) = (_seen(axis) for axis in axes)
        whole = (least_high, least_wide) == entry.input_size
        view = View(1, entry.input_size, (most_high, most_wide), whole)
        if views and (views[-1].map_size, views[-1].seen) == (view.map_size, view.seen):
            view = View(views.pop().layers + 1, view.map_size, view.seen, view.is_global)
        views.append(view)
    return views


def _seen(axis: Axis) -> tuple[int, int]:
    """Most and fewest pixels of a map's axis that a query sees."""
    cpu = torch.device("cpu")
    exists = axis.key_pixels(cpu)[1]  # (blocks, neighbourhood)
    seen = exists[:, None] & axis.in_window(cpu)  # (blocks, queries of a block, neighbourhood)
    pixels = seen.sum(-1).flatten()[: axis.queries].clamp(max=axis.size)
    return int(pixels.max()), int(pixels.min())


def _table(model: ModelSummary) -> list[str]:
    heads = [
        ("", "", "", "", "", "", "neighbourhood:", "", "", "params", "multiply-"),
        ("", "output", "slot", "blocks", "block", "halo", "seen of the map", "heads", "channels", "M", "adds, G"),
    ]
    rows = [stage_cells(stage) for stage in model.stages]
    rows.append(("total", *[""] * 8, _millions(model.total.parameters), _billions(model.total.multiply_adds)))
    widths = [max(len(row[column]) for row in heads + rows) for column in range(len(heads[0]))]
    left = {0, 2, 6}
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in heads + rows
    ]
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return [*lines[: len(heads)], rule, *lines[len(heads) : -1], rule, lines[-1]]


def stage_cells(stage: StageSummary) -> tuple[str, ...]:
    """A line of the table: name, output, slot, blocks, block, halo, what is seen of the map, heads, channels, millions
    of parameters, billions of multiply-adds."""
    seen = ""
    if stage.neighborhood is not None:
        seen = f"{_side(stage.neighborhood)}: {', then '.join(_view(view) for view in stage.views)}"
    return (
        stage.name,
        "" if stage.output_size is None else "x".join(map(str, stage.output_size)),
        stage.slot,
        str(stage.blocks or ""),
        _side(stage.block_size),
        _side(stage.halo_size),
        seen,
        str(stage.num_heads or ""),
        str(stage.channels),
        _millions(stage.parameters),
        _billions(stage.multiply_adds),
    )


def _view(view: View) -> str:
    return f"all {_side(view.map_size)}" if view.is_global else f"{_side(view.seen)} of {_side(view.map_size)}"


def _side(size: tuple[int, int] | None) -> str:
    """A size as its side where it is square."""
    if size is None:
        return ""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.3f}"


def _billions(count: int) -> str:
    return f"{count / 1e9:.3f}"


def _published_lines(model: ModelSummary) -> list[str]:
    """The published figures beside ours, counted as here and as there, and the notes on them."""
    if model.overrides:
        return ["published figures: of the row without overrides only"]
    if not model.published:
        return ["published figures: none for this row and image size"]
    lines = [f"{'':15}{'counted here':>14}{'as the paper counts':>21}{'published':>12}"]
    notes: list[str] = []
    for figure in model.published:
        number = f"[{len(notes) + 1}]" if figure.note else ""
        if figure.note:
            notes.append(f"{number} {figure.note}")
        lines.append(_published_line(figure, model, number))
    for convention in sorted({figure.convention for figure in model.published}):
        notes.append(f"as the paper counts ({convention}): {CONVENTIONS[convention]}")
    wrapped = [line for note in notes for line in textwrap.wrap(note, WIDTH, subsequent_indent="    ")]
    return [*lines, "", *wrapped]


def _published_line(figure: Figure, model: ModelSummary, number: str) -> str:
    here, there = (getattr(count, figure.quantity) for count in (model.total, model.by_convention[figure.convention]))
    form, unit = (_millions, "M") if figure.quantity == "parameters" else (_billions, "G")
    published = "none" if figure.published is None else f"{figure.published:g} {unit}"
    contradicted = "NOT MET" if figure.contradicted else ""
    source = "" if figure.published is None else figure.source
    remark = "  ".join(part for part in (contradicted, source, number) if part)
    name = figure.quantity.replace("_", "-")
    return f"{name:15}{form(here) + ' ' + unit:>14}{form(there) + ' ' + unit:>21}{published:>12}  {remark}"
