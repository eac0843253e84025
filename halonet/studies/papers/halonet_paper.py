"""Studies of HaloNet (Vaswani et al. 2021, arXiv 2103.12731). Where a figure's points are not in the text, published is
None and the note says so."""

from typing import Any

from halonet.models.published import printed
from halonet.studies.study import Row, Statement, Study

PAPER = "Vaswani et al. 2021 (arXiv 2103.12731)"
# The small form: 360 digits to learn from and 1258 to be judged by, so that rows differ by more than their noise.
SMALL: dict[str, Any] = {
    "model.name": "halonet_nano_32",
    "model.overrides.activation": "relu",
    "data.test_fraction": 0.7,
    "data.batch_size": 16,
    "data.randaugment": 0.0,
    "optim.lr": 0.1,
    "optim.label_smoothing": 0.0,
    "trainer.max_epochs": 24,
}
# The ratio is not published for classification; 1/8 is appendix C.4's.
SE = {"model.overrides.squeeze_excite": 0.125}
SILU = {"model.overrides.activation": "silu"}
SMOOTHING = {"optim.label_smoothing": 0.1}
RANDAUGMENT = {"data.randaugment": 10.0, "optim.weight_decay": 4e-5}  # appendix C.1
SMALL_RANDAUGMENT = {"data.randaugment": 6.0}
SMALL_RANDAUGMENT_NOTE = "RandAugment of magnitude 6, the least the paper uses, in place of 10"
PICTURE = "a picture; the text gives no value"

_COMPONENTS = (
    # name, label, HaloNet-50, ResNet-50
    ("baseline", "Baseline", 78.6, 77.6),
    ("ls", "+ LS", 79.7, 78.1),
    ("ls-ra", "+ LS, RA", 79.9, 78.4),
    ("se", "+ SE", 78.6, 78.6),
    ("se-silu", "+ SE, SiLU", 79.0, 78.9),
    ("ls-se", "+ LS, SE", 79.7, 78.9),
    ("ls-se-silu", "+ LS, SE, SiLU", 79.9, 79.1),
    ("ls-se-silu-ra", "+ LS, SE, SiLU, RA", 80.5, 79.5),
)


def _component_row(name: str, label: str, published: float, *, conv: bool) -> Row:
    """A cell of Table 3: its components, on attention or on convolutions."""
    parts = name.split("-")
    switches: dict[str, dict[str, Any]] = {"se": SE, "silu": SILU, "ls": SMOOTHING}
    settings = {key: value for part in parts for key, value in switches.get(part, {}).items()}
    augments = "ra" in parts
    return Row(
        name=f"{'resnet' if conv else 'halonet'}-{name}",
        label=label,
        published=(published,),
        series="ResNet-50" if conv else "HaloNet-50",
        settings=settings,
        paper={
            "model.name": "resnet50_256" if conv else "halonet50_256",
            **(RANDAUGMENT if augments else {}),
        },
        small={
            **({"model.overrides.slot": "conv"} if conv else {}),
            **(SMALL_RANDAUGMENT if augments else {}),
        },
    )


TABLE_3 = Study(
    name="halonet_table3",
    title="What convolutional components and regularization bring to attention and to convolutions",
    source=f"{PAPER}, Table 3, section 4.2.1, appendix C.1",
    recipe="halonet50_imagenet",
    baselines={"HaloNet-50": "halonet-baseline", "ResNet-50": "resnet-baseline"},
    small_settings=SMALL,
    rows=[
        _component_row(name, label, values[conv], conv=bool(conv))
        for conv in (0, 1)
        for name, label, *values in _COMPONENTS
    ],
    statements=[
        Statement("label smoothing and RandAugment help HaloNet", "halonet-ls-ra", "halonet-baseline", 1.3),
        Statement("label smoothing and RandAugment help ResNet", "resnet-ls-ra", "resnet-baseline", 0.8),
        Statement("squeeze-excite and SiLU help ResNet", "resnet-se-silu", "resnet-baseline", 1.3),
        Statement("squeeze-excite and SiLU help HaloNet a little", "halonet-se-silu", "halonet-baseline", 0.4),
    ],
    notes=["the ratio of squeeze-excite is not published; 1/8 is appendix C.4's, for detection"],
    small_notes=[SMALL_RANDAUGMENT_NOTE],
)

TABLE_4 = Study(
    name="halonet_table4",
    title="Convolutions in place of attention in the first stages of H7",
    source=f"{PAPER}, Table 4, section 4.4",
    recipe="halonet_imagenet",
    measures=("top-1 %", "train time, EfficientNet-B7's = 1"),
    baselines={"": "none"},
    small_settings={**SMALL, **SILU},
    rows=[
        Row(
            name=name,
            label=f"conv {conv}, attention {attention}",
            published=printed(f"halonet_h7{suffix}_600", "HaloNet, Table 4", "top1", "train_time"),
            paper={"model.name": f"halonet_h7{suffix}_600"},
            small={"model.overrides.slot": slots},
        )
        for name, conv, attention, suffix, slots in (
            ("none", "-", "1, 2, 3, 4", "", "halo"),
            ("conv-1", "1", "2, 3, 4", "_c1", [["conv", "halo"], "halo"]),
            ("conv-12", "1, 2", "3, 4", "_c12", ["conv", "halo"]),
            ("conv-123", "1, 2, 3", "4", "_c123", ["conv", ["conv", "halo"]]),
        )
    ],
    statements=[
        Statement("convolutions in all stages but the last lose 1 %", "none", "conv-123", 1.1),
        Statement("attention in the last two stages is better than in the last", "conv-12", "conv-123", 0.9),
    ],
    notes=["drop-out and stochastic depth of H7 are not published: none here"],
    small_notes=[
        "the small model's four blocks stand for the four stages: convolutions in the first none to three of them",
        "without the squeeze-excite of the paper's convolutions, which is set stage by stage",
    ],
)


def _equivariance_row(level: str, label: str, published: float | None, *, masked: bool) -> Row:
    parts = level.split("-")
    x = (("none", "ls", "ls-ra").index(level)) + 1.0
    return Row(
        name=f"{'masked' if masked else 'halo'}-{level}",
        label=label,
        published=(None if masked else published,),
        series="7x7 by masks" if masked else "b = 8, h = 3",
        settings=SMOOTHING if "ls" in parts else {},
        paper={
            **({"model.overrides.window": 7} if masked else {}),
            **(RANDAUGMENT if "ra" in parts else {}),
        },
        small={
            **({"model.overrides.window": 5} if masked else {}),
            **(SMALL_RANDAUGMENT if "ra" in parts else {}),
        },
        x=x,
        small_x=x,
        mark=label,
        small_mark=label,
        note=PICTURE if masked else "the same model and training in Table 3; the figure is a picture",
    )


FIGURE_5 = Study(
    name="halonet_figure5",
    title="Relaxing translational equivariance: windows of blocks against windows around each pixel",
    source=f"{PAPER}, Figure 5, section 4.3",
    recipe="halonet50_imagenet",
    baselines={"b = 8, h = 3": "halo-none", "7x7 by masks": "masked-none"},
    small_settings=SMALL,
    rows=[
        _equivariance_row(level, label, published, masked=masked)
        for masked in (False, True)
        for level, label, published in (
            ("none", "no regularization", 78.6),
            ("ls", "LS", 79.7),
            ("ls-ra", "LS, RA", 79.9),
        )
    ],
    statements=[
        Statement("blocks are better than masks", "halo-none", "masked-none"),
        Statement("so with label smoothing", "halo-ls", "masked-ls"),
        Statement("so with label smoothing and RandAugment, by more", "halo-ls-ra", "masked-ls-ra"),
    ],
    axis="regularization",
    notes=["the figure's steps of regularization are not in the text; Table 3's are taken"],
    small_notes=["b = 4, h = 2 against 5x5 by masks", SMALL_RANDAUGMENT_NOTE],
)


def _size_row(size: int, block: tuple[int, int], small_size: int, small_block: tuple[int, int], *, conv: bool) -> Row:
    def blocks(pair: tuple[int, int]) -> dict[str, Any]:
        return {} if conv else {"model.overrides.block_size": pair[0], "model.overrides.halo_size": pair[1]}

    published = {False: 78.6, True: 77.6}[conv] if size == 256 else None
    return Row(
        name=f"{'resnet' if conv else 'halonet'}-{size}",
        label=f"{size} pixels",
        published=(published,),
        series="ResNet-50" if conv else "HaloNet-50",
        paper={
            "model.name": "resnet50_256" if conv else "halonet50_256",
            "data.img_size": size,
            **blocks(block),
        },
        small={
            **({"model.overrides.slot": "conv"} if conv else {}),
            "data.img_size": small_size,
            **blocks(small_block),
        },
        x=size,
        small_x=small_size,
        mark="" if conv else f"({block[0]}, {block[1]})",
        small_mark="" if conv else f"({small_block[0]}, {small_block[1]})",
        note="Table 3's" if published else PICTURE,
    )


_SIZES = (
    # pixels, (b, h); of the small form
    (256, (8, 3), 8, (2, 1)),
    (320, (10, 3), 16, (4, 2)),
    (384, (12, 2), 24, (6, 2)),
    (448, (14, 2), 32, (8, 2)),
)
FIGURE_6 = Study(
    name="halonet_figure6",
    title="Larger images, HaloNet-50 beside ResNet-50",
    source=f"{PAPER}, Figure 6, section 4.2.2",
    recipe="halonet50_imagenet",
    baselines={"HaloNet-50": "halonet-256", "ResNet-50": "resnet-256"},
    small_settings=SMALL,
    rows=[_size_row(*sizes, conv=conv) for conv in (False, True) for sizes in _SIZES],
    statements=[
        Statement("HaloNet gains by larger images", "halonet-448", "halonet-256"),
        Statement("ResNet gains too", "resnet-448", "resnet-256"),
        Statement("HaloNet is above ResNet on the smallest images", "halonet-256", "resnet-256", 1.0),
        Statement("HaloNet is above ResNet on the largest images", "halonet-448", "resnet-448"),
    ],
    axis="image side (pixels)",
    notes=["the figure's sizes and blocks are not in the text; those of H0, H3, H4 and H5 (Table A2) are taken"],
    small_notes=["the digits are 8x8 scans: larger images hold nothing new, only more positions"],
)

_WINDOWS = (
    # (b, h); of the small form, whose maps are 8x8 and 4x4
    ((4, 0), (2, 0)),
    ((4, 1), (2, 1)),
    ((8, 0), (4, 0)),
    ((4, 2), (2, 2)),
    ((8, 1), (4, 1)),
    ((8, 2), (4, 2)),
    ((4, 4), (2, 3)),
    ((8, 3), (4, 3)),
    ((16, 0), (8, 0)),
)
FIGURE_7 = Study(
    name="halonet_figure7",
    title="Window, block and halo",
    source=f"{PAPER}, Figure 7, section 4.3",
    recipe="halonet50_imagenet",
    baselines={"": "b4-h1"},
    small_settings=SMALL,
    rows=[
        Row(
            name=f"b{block}-h{halo}",
            label=f"b = {block}, h = {halo}, window {block + 2 * halo}",
            published=(None,),
            paper={"model.overrides.block_size": block, "model.overrides.halo_size": halo},
            small={"model.overrides.block_size": small[0], "model.overrides.halo_size": small[1]},
            x=block + 2 * halo,
            small_x=small[0] + 2 * small[1],
            mark=f"({block}, {halo})",
            small_mark=f"({small[0]}, {small[1]})",
            note=PICTURE,
        )
        for (block, halo), small in _WINDOWS
    ],
    statements=[
        Statement("a window of 12 is better than one of 6", "b8-h2", "b4-h1", 1.3),
        Statement("b = 4 with h = 1 is better than b = 8 without a halo", "b4-h1", "b8-h0"),
    ],
    axis="window size b + 2h (pixels)",
    notes=[
        "which (b, h) the figure has is not in the text beyond (4, 1), (8, 0), a window of 6 and one of 12",
        "the text also says that for a window's size the block's does not matter: compare equal windows",
    ],
    small_notes=["blocks are half the paper's, on maps of 8x8 and 4x4: a window of 8 sees nearly everything"],
)

TABLE_A1 = Study(
    name="halonet_table_a1",
    title="Which dimension of HaloNet-50 is worth 30 million parameters",
    source=f"{PAPER}, Table A1, appendix B",
    recipe="halonet50_regularized_imagenet",
    baselines={"": "baseline"},
    small_settings={**SMALL, **SE, **SILU, **SMOOTHING},
    rows=[
        Row(
            name=name,
            label=label,
            published=(80.5,) if name == "baseline" else printed(model, "HaloNet, Table A1"),
            paper={"model.name": model},
            small=small,
            note=note,
        )
        for name, label, model, small, note in (
            (
                *("baseline", "HaloNet-50", "halonet50_256", {}),
                "not printed; each line's accuracy less its difference, and Table 3's last line",
            ),
            ("layers", "layers 50 -> 98", "halonet50_layers98_256", {"model.overrides.depth": [2, 5]}, ""),
            ("r-v", "r_v 1 -> 3", "halonet50_rv3_256", {"model.overrides.value_multiplier": 3.0}, ""),
            ("r-w", "r_w 1 -> 1.25", "halonet50_rw125_256", {"model.overrides.width": [40, 80]}, ""),
            ("r-b", "r_b 4 -> 6.5", "halonet50_rb65_256", {"model.overrides.output_multiplier": 3.25}, ""),
            (
                *("r-qk", "r_qk 1 -> 6.5", "halonet50_rqk65_256"),
                *({"model.overrides.query_key_multiplier": 6.5}, ""),
            ),
        )
    ],
    statements=[
        Statement("more layers help", "layers", "baseline", 0.9),
        Statement("wider values help", "r-v", "baseline", 0.5),
        Statement("wider queries and keys do not: the baseline is above", "baseline", "r-qk", 0.2),
    ],
    notes=["r_w 1.25 and r_qk 6.5 give 27.5 and 31.9 million parameters, not 30"],
    small_notes=["without RandAugment; r_b from 2 to 3.25, and the last stage's blocks from 2 to 5"],
)

APPENDIX_F = Study(
    name="halonet_appendix_f",
    title="Relative against absolute position",
    source=f"{PAPER}, appendix F",
    recipe="halonet50_imagenet",
    baselines={"": "relative"},
    small_settings=SMALL,
    rows=[
        Row(name="relative", label="relative", published=(78.6,)),
        Row(
            name="absolute",
            label="absolute, factorized, added before each attention",
            published=(77.5,),
            settings={"model.overrides.relative": "absolute"},
        ),
        Row(
            name="none",
            label="no position",
            published=(None,),
            settings={"model.overrides.relative": "none"},
            note="not of the paper; for comparison",
        ),
    ],
    statements=[Statement("relative is better than absolute position", "relative", "absolute", 1.1)],
)

STUDIES = (TABLE_3, TABLE_4, FIGURE_5, FIGURE_6, FIGURE_7, TABLE_A1, APPENDIX_F)
