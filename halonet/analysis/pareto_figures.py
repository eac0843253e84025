"""The figures of `halonet plot pareto`, as data: which published lines each shows, and what a paper only draws.

HaloNet is arXiv 2103.12731, BoTNet arXiv 2101.11605.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Points that share a colour and a front.

    family: as the legend has it.
    rows: patterns of rows, or of a peer's family ("peer:EfficientNet").
    source: the lines' table; "" for the best of each row, wherever it stands.
    labels: patterns of the lines' labels there.
    """

    family: str
    rows: tuple[str, ...]
    source: str = ""
    labels: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class ParetoFigure:
    """One figure.

    title, source: what it shows, and which figure of a paper it follows; "" for one of ours.
    axis: of `halonet.analysis.pareto.AXES`, that the paper has or that is shown by default.
    groups: the families.
    not_told: rows whose accuracy the paper draws only; they stand at the foot of the picture, with no accuracy.
    notes: what else is left out or differs.
    """

    title: str
    axis: str
    groups: tuple[Group, ...]
    source: str = ""
    not_told: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


_TABLE_14 = "BoTNet, Table 14"
_SMALL_HALONETS = tuple(
    f"halonet_{row}" for row in ("h0_256", "h1_256", "h2_256", "h3_320", "h4_384", "h5_448", "h6_512")
)
_HALONETS = (
    Group("EfficientNet", ("peer:EfficientNet",), _TABLE_14),
    Group("HaloNet", ("halonet_h7_600",), "HaloNet, Table 4"),
    Group("HaloNet-H7 with convolutions", ("halonet_h7_c*",), "HaloNet, Table 4"),
)
_DRAWN = "H0 to H6: the paper draws their accuracies and does not print them"
_EFFICIENTNETS = "EfficientNets are not printed in the HaloNet paper: BoTNet's Table 14 has their accuracies"
_TRANSFORMERS = "ViT and DeiT: the paper draws them and does not print them"


def _table_14(*, nets: str = "*", bots: str = "*", efficient: tuple[str, ...] = ("*",)) -> tuple[Group, ...]:
    return (
        Group("EfficientNet", ("peer:EfficientNet",), _TABLE_14, labels=efficient),
        Group("ResNet", ("resnet*",), _TABLE_14),
        Group("SENet", ("senet*",), _TABLE_14, labels=(nets,)),
        Group("BoTNet-S1", ("botnet_s1_*",), _TABLE_14, labels=(bots,)),
    )


FIGURES: Mapping[str, ParetoFigure] = {
    "zoo": ParetoFigure(
        title="Every row with a published accuracy, and the papers' peers",
        axis="parameters",
        groups=(
            Group("HaloNet H7 and hybrids", ("halonet_h7_*",)),
            Group("HaloNet-50 and its scalings", ("halonet50_*",)),
            Group("HaloNet-H4, base 128 (21k)", ("halonet_h4_base128_*",)),
            Group("BoTNet", ("botnet*",)),
            Group("SENet", ("senet*",)),
            Group("ResNet", ("resnet*",)),
            Group("ViL", ("vil_*_224",)),
            Group("ViL (21k)", ("vil_*_384",)),
            Group("MsViT, full attention", ("msvit_*", "evit_*")),
            Group("EfficientNet", ("peer:EfficientNet",)),
            Group("DeiT", ("peer:DeiT",)),
            Group("Swin", ("peer:Swin",)),
            Group("PVT", ("peer:PVT",)),
        ),
        notes=(_DRAWN, "training differs from paper to paper; 21k: pretrained on ImageNet-21k"),
    ),
    "halonet_figure4": ParetoFigure(
        title="HaloNets beside EfficientNets",
        source="HaloNet, Figure 4",
        axis="parameters",
        groups=_HALONETS,
        not_told=_SMALL_HALONETS,
        notes=(_DRAWN, _EFFICIENTNETS, "B5 with RandAugment, which the figure has, is not printed"),
    ),
    "halonet_figure8": ParetoFigure(
        title="HaloNets and hybrids beside EfficientNets",
        source="HaloNet, Figure 8",
        axis="train_time",
        groups=_HALONETS,
        not_told=_SMALL_HALONETS,
        notes=(
            _DRAWN,
            f"{_EFFICIENTNETS}, and step times, which are divided by B7's",
            "hybrids of H0 to H6 are drawn and not printed either",
        ),
    ),
    "botnet_figure7": ParetoFigure(
        title="SENets, BoTNets and EfficientNets up to EfficientNet-B5",
        source="BoTNet, Figure 7",
        axis="step_time",
        groups=_table_14(nets="S[!5]*", bots="T[345]", efficient=("B[0-5]",)),
        notes=(_TRANSFORMERS,),
    ),
    "botnet_figure8": ParetoFigure(
        title="SENets, BoTNets and EfficientNets up to 84.7 %",
        source="BoTNet, Figure 8",
        axis="step_time",
        groups=(
            Group("EfficientNet", ("peer:EfficientNet",), _TABLE_14, labels=("B[4-7]*",)),
            Group("SENet", ("senet*",), _TABLE_14, labels=("S[1-5]",)),
            Group("BoTNet-S1", ("botnet_s1_*",), _TABLE_14, labels=("T[4-7]*",)),
        ),
        notes=(_TRANSFORMERS, "which EfficientNet the figure begins with is not in the text; B4 is taken"),
    ),
    "botnet_figure9": ParetoFigure(
        title="All backbones of Table 14",
        source="BoTNet, Figure 9",
        axis="step_time",
        groups=_table_14(),
        notes=(_TRANSFORMERS,),
    ),
    "vil_table4": ParetoFigure(
        title="Vision Longformers beside DeiT, Swin, PVT and ResNets",
        source="Vision Longformer, Table 4",
        axis="multiply_adds",
        groups=(
            Group("ViL", ("vil_*",), "Vision Longformer, Table 4"),
            *(
                Group(family, (f"peer:{family}",), "Vision Longformer, Table 4")
                for family in ("Swin", "DeiT", "PVT", "ResNet", "ResNeXt", "ViT")
            ),
        ),
        notes=("ImageNet-1k alone, 224 pixels",),
    ),
}
