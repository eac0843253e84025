"""Every model by name, as data. A new model is a row here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from halonet.models.config import ResidualConfig, StageConfig

RESNET_WIDTHS = (64, 128, 256, 512)
# Of the conv stages of the hybrids (Table 4); the paper names this ratio in appendix C.4 only.
HYBRID_SQUEEZE_EXCITE = 1 / 8


@dataclass(frozen=True)
class HaloRow:
    """A line of HaloNet's Table A2, in the paper's letters."""

    b: int
    h: int
    r_v: float
    r_b: float
    l_3: int
    s: int
    d_f: int | None = None


# Table A2. H3 is printed with d_f = 1024, which gives 11.8 M parameters; 1280 gives the published 12.3 M.
HALONETS = {
    "h0": HaloRow(b=8, h=3, r_v=1.0, r_b=0.5, l_3=7, s=256),
    "h1": HaloRow(b=8, h=3, r_v=1.0, r_b=1.0, l_3=10, s=256),
    "h2": HaloRow(b=8, h=3, r_v=1.0, r_b=1.25, l_3=11, s=256),
    "h3": HaloRow(b=10, h=3, r_v=1.0, r_b=1.5, l_3=12, s=320, d_f=1280),
    "h4": HaloRow(b=12, h=2, r_v=1.0, r_b=3.0, l_3=12, s=384, d_f=1280),
    "h5": HaloRow(b=14, h=2, r_v=2.5, r_b=2.0, l_3=23, s=448, d_f=1536),
    "h6": HaloRow(b=8, h=4, r_v=3.0, r_b=2.75, l_3=24, s=512, d_f=1536),
    "h7": HaloRow(b=10, h=3, r_v=4.0, r_b=3.5, l_3=26, s=600, d_f=2048),
}


def halonet(row: HaloRow) -> ResidualConfig:
    """HaloNet H0-H7 (Table 2, Table A2): heads 4-8-8-8, SiLU (section 4.2.1)."""
    stages = attention_stages(
        depths=(3, 3, row.l_3, 3),
        block_size=row.b,
        halo_size=row.h,
        value_multiplier=row.r_v,
        output_multiplier=row.r_b,
    )
    return ResidualConfig(stages, image_size=row.s, head_width=row.d_f, activation="silu")


def attention_stages(
    *,
    depths: tuple[int, int, int, int],
    width_multiplier: float = 1.0,
    block_size: int = 8,
    halo_size: int = 3,
    value_multiplier: float = 1.0,
    query_key_multiplier: float = 1.0,
    output_multiplier: float = 4.0,
    window: int | None = None,
    downsample: str = "query",
) -> tuple[StageConfig, ...]:
    """Four stages of local attention with HaloNet's heads, 4-8-8-8 (section 2.3)."""
    return tuple(
        StageConfig(
            depth=depth,
            width=round(width * width_multiplier),
            slot="halo",
            stride=1 if index == 0 else 2,
            num_heads=4 if index == 0 else 8,
            block_size=block_size,
            halo_size=halo_size,
            value_multiplier=value_multiplier,
            query_key_multiplier=query_key_multiplier,
            output_multiplier=output_multiplier,
            window=window,
            downsample=downsample,
        )
        for index, (depth, width) in enumerate(zip(depths, RESNET_WIDTHS, strict=True))
    )


def with_conv_stages(
    config: ResidualConfig, count: int, *, squeeze_excite: float = HYBRID_SQUEEZE_EXCITE
) -> ResidualConfig:
    """The hybrid with convolutions (and squeeze-excite) in the first `count` stages (Table 4); r_v is dropped there."""
    stages = tuple(
        replace(stage, slot="conv", value_multiplier=1.0, squeeze_excite=squeeze_excite) if index < count else stage
        for index, stage in enumerate(config.stages)
    )
    return replace(config, stages=stages)


def h4_base128(*, block_size: int, halo_size: int, image_size: int) -> ResidualConfig:
    """H4 of base width 128 for transfer (Table 6, appendix E): r_w 2, r_b 4, no d_f, 4 blocks in the second stage."""
    stages = attention_stages(depths=(3, 4, 12, 3), width_multiplier=2.0, block_size=block_size, halo_size=halo_size)
    return ResidualConfig(stages, image_size=image_size, activation="silu")


def resnet(
    depths: tuple[int, int, int, int], *, image_size: int, squeeze_excite: float = 0.0, activation: str = "relu"
) -> ResidualConfig:
    """ResNet v1.5 (stride in the 3x3), or an SENet of it."""
    stages = tuple(
        StageConfig(depth, width, stride=1 if index == 0 else 2, squeeze_excite=squeeze_excite)
        for index, (depth, width) in enumerate(zip(depths, RESNET_WIDTHS, strict=True))
    )
    return ResidualConfig(stages, image_size=image_size, activation=activation)


def resnext(depths: tuple[int, int, int, int], *, groups: int, group_width: int, image_size: int) -> ResidualConfig:
    """ResNeXt (arXiv 1611.05431): grouped 3x3, `group_width` channels a group in the first stage, outputs of a ResNet.

    32 x 8d is the ResNeXt-101 of Mask R-CNN's published models; Shen et al. (Table 4) do not say which theirs is.
    """
    ratio = groups * group_width / RESNET_WIDTHS[0]
    stages = tuple(
        StageConfig(
            depth, round(width * ratio), stride=1 if index == 0 else 2, groups=groups, output_multiplier=4 / ratio
        )
        for index, (depth, width) in enumerate(zip(depths, RESNET_WIDTHS, strict=True))
    )
    return ResidualConfig(stages, image_size=image_size)


def with_halo_last_stage(config: ResidualConfig) -> ResidualConfig:
    """Local attention (b = 8, h = 3) in the last three blocks, which are the last stage; no SE there (section 4.6)."""
    last = replace(config.stages[-1], slot="halo", squeeze_excite=0.0)
    return replace(config, stages=(*config.stages[:-1], last))


# Depths of the ResNets by their number of layers.
RESNETS = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    350: (4, 40, 60, 12),
}
# BoTNet, Table 13: of the S1 nets too, whose last stage keeps its resolution.
BOTNETS_S1 = {50: (3, 4, 6, 3), 59: (3, 4, 6, 6), 77: (3, 4, 6, 12), 110: (3, 4, 23, 6), 128: (3, 4, 23, 12)}


def with_mhsa(config: ResidualConfig, stage: int = 3, **options: Any) -> ResidualConfig:
    """BoTNet: global attention in a stage's slots (4 heads, full relative position, pooling where it strides)."""
    mhsa = {"slot": "mhsa", "num_heads": 4, "relative": "full", "downsample": "pool", **options}
    stages = list(config.stages)
    stages[stage] = replace(stages[stage], **mhsa)
    return replace(config, stages=tuple(stages))


def botnet_s1(layers: int, *, image_size: int, squeeze_excite: float = 0.0, activation: str = "relu") -> ResidualConfig:
    """BoTNet-S1: the last stage strides nowhere (section 4.8.1)."""
    depths = BOTNETS_S1[layers]
    config = resnet(depths, image_size=image_size, squeeze_excite=squeeze_excite, activation=activation)
    return with_mhsa(config, stride=1)


def _halonet_rows() -> dict[str, ResidualConfig]:
    """H0-H7, H3 as printed, and the hybrids of each with convolutions in stages 1, 1-2 and 1-3."""
    rows = {}
    for name, row in HALONETS.items():
        config = halonet(row)
        rows[f"halonet_{name}_{row.s}"] = config
        for count, suffix in enumerate(("c1", "c12", "c123"), start=1):
            rows[f"halonet_{name}_{suffix}_{row.s}"] = with_conv_stages(config, count)
    rows["halonet_h3_df1024_320"] = halonet(replace(HALONETS["h3"], d_f=1024))
    return rows


def _transfer_rows() -> dict[str, ResidualConfig]:
    """Table 6 at its three sizes: pre-training at 256, fine-tuning at 384 and 512."""
    rows = {}
    for size, block, halo in ((256, 8, 2), (384, 12, 2), (512, 16, 1)):
        config = h4_base128(block_size=block, halo_size=halo, image_size=size)
        rows[f"halonet_h4_base128_{size}"] = config
        rows[f"halonet_h4_base128_patch4_{size}"] = replace(config, stem="patch4")
        rows[f"halonet_h4_base128_c12_{size}"] = with_conv_stages(config, 2, squeeze_excite=0.0)
    return rows


def _ablation_rows() -> dict[str, ResidualConfig]:
    """HaloNet-50 and its scalings (section 4.2, Table A1), SASA-50 and their ResNet baseline, all at 256."""

    def fifty(depths: tuple[int, int, int, int] = (3, 4, 6, 3), **options: float) -> ResidualConfig:
        return ResidualConfig(attention_stages(depths=depths, **options), image_size=256)  # type: ignore[arg-type]

    sasa = attention_stages(depths=(3, 4, 6, 3), window=7, downsample="pool")
    return {
        "halonet50_256": fifty(),
        "halonet50_layers98_256": fifty((3, 4, 22, 3)),
        "halonet50_rv3_256": fifty(value_multiplier=3.0),
        "halonet50_rw125_256": fifty(width_multiplier=1.25),
        "halonet50_rb65_256": fifty(output_multiplier=6.5),
        "halonet50_rqk65_256": fifty(query_key_multiplier=6.5),
        "sasa50_256": ResidualConfig(sasa, image_size=256),
        "resnet50_256": resnet((3, 4, 6, 3), image_size=256),
    }


def _baseline_rows() -> dict[str, ResidualConfig]:
    """ResNet and SENet (1/16, SiLU) as BoTNet's Tables 13 and 14 use them; SE 1/8 for detection (HaloNet, C.4);
    ResNeXt (Shen et al., Table 4)."""
    rows = {
        "resnet50_224": resnet(RESNETS[50], image_size=224),
        "resnet101_224": resnet(RESNETS[101], image_size=224),
        "resnet152_224": resnet(RESNETS[152], image_size=224),
        "resnext50_32x4d_224": resnext(RESNETS[50], groups=32, group_width=4, image_size=224),
        "resnext101_32x8d_224": resnext(RESNETS[101], groups=32, group_width=8, image_size=224),
        "resnext101_64x4d_224": resnext(RESNETS[101], groups=64, group_width=4, image_size=224),
    }
    # S0 to S5, and SENet-50 at 224 between them.
    for layers, size in ((50, 160), (50, 224), (101, 224), (152, 224), (152, 288), (350, 320), (350, 384)):
        config = resnet(RESNETS[layers], image_size=size, squeeze_excite=1 / 16, activation="silu")
        rows[f"senet{layers}_{size}"] = config
    for layers in (50, 101):
        config = resnet(RESNETS[layers], image_size=512, squeeze_excite=1 / 8)
        rows[f"resnet{layers}_se8_512"] = config
        rows[f"resnet{layers}_se8_halo_512"] = with_halo_last_stage(config)
    return rows


def _botnet_rows() -> dict[str, ResidualConfig]:
    """BoTNet for detection at 1024 (Tables 1 to 9, 17) and for classification (Tables 10 to 14, 19)."""
    rows = {}
    for layers in (50, 101, 152, 200):
        config = resnet(RESNETS[layers], image_size=1024)
        rows[f"resnet{layers}_1024"] = config
        rows[f"botnet{layers}_1024"] = with_mhsa(config)
    r50 = rows["resnet50_1024"]
    for pattern in ("001", "011", "100"):  # Table 5: which blocks of the last stage
        slots = tuple("mhsa" if block == "1" else "conv" for block in pattern)
        rows[f"botnet50_c5_{pattern}_1024"] = with_mhsa(r50, slot=slots)
    # Table 4: content alone, position alone, absolute position.
    rows["botnet50_qk_1024"] = with_mhsa(r50, relative="none")
    rows["botnet50_qr_1024"] = with_mhsa(r50, content=False)
    rows["botnet50_abs_1024"] = with_mhsa(r50, relative="absolute")
    # Table 8, appendix A.5: one more block between the last two of a stage.
    bot_c4 = with_mhsa(r50, 2, slot="conv", inserts=((5, "mhsa"),))
    rows["resnet50_nonlocal_c4_1024"] = with_mhsa(r50, 2, slot="conv", inserts=((5, "nonlocal"),))
    rows["resnet50_bot_c4_1024"] = bot_c4
    rows["resnet50_bot_c4_c5_1024"] = with_mhsa(bot_c4, slot="conv", inserts=((2, "mhsa"),))
    # Table 17: squeeze-excite in place of attention.
    rows["resnet50_se_c5_1024"] = replace(r50, stages=(*r50.stages[:3], replace(r50.stages[3], squeeze_excite=1 / 16)))
    rows["botnet50_224"] = with_mhsa(resnet(RESNETS[50], image_size=224))
    rows["botnet_s1_50_224"] = botnet_s1(50, image_size=224)
    # Table 12: SiLU, and squeeze-excite in the blocks of convolutions; Table 19: other positions.
    senet50 = resnet(RESNETS[50], image_size=224, squeeze_excite=1 / 16, activation="silu")
    rows["botnet50_se_224"] = with_mhsa(senet50, squeeze_excite=0.0)
    s1 = with_mhsa(senet50, stride=1, squeeze_excite=0.0)
    rows["botnet_s1_50_se_224"] = s1
    rows["botnet_s1_50_se_nopos_224"] = with_mhsa(s1, stride=1, relative="none")
    rows["botnet_s1_50_se_abs_224"] = with_mhsa(s1, stride=1, relative="absolute")
    # T3 to T7 (Table 14): squeeze-excite in every block, the last stage's too, as the published sizes want it.
    for layers, size in ((59, 224), (110, 224), (128, 256), (77, 320), (128, 320), (128, 384)):
        rows[f"botnet_s1_{layers}_{size}"] = botnet_s1(
            layers, image_size=size, squeeze_excite=1 / 16, activation="silu"
        )
    return rows


def _small_rows() -> dict[str, ResidualConfig]:
    """A HaloNet and a BoTNet-S1 that learn the handwritten digits on a CPU in a minute; not of the papers."""
    stages: tuple[StageConfig, ...] = (
        StageConfig(depth=2, width=32, slot="halo", stride=1, num_heads=4, block_size=4, halo_size=2),
        StageConfig(depth=2, width=64, slot="halo", stride=2, num_heads=4, block_size=4, halo_size=2),
    )
    stages = tuple(replace(stage, output_multiplier=2.0) for stage in stages)
    halo = ResidualConfig(stages, image_size=32, stem="conv3", stem_width=32, stem_stride=2, activation="silu")
    conv = tuple(replace(stage, slot="conv") for stage in stages)
    return {
        "halonet_nano_32": halo,
        "botnet_s1_nano_32": with_mhsa(replace(halo, stages=conv), 1, stride=1),
    }


ROWS: dict[str, ResidualConfig] = {
    **_halonet_rows(),
    **_transfer_rows(),
    **_ablation_rows(),
    **_baseline_rows(),
    **_botnet_rows(),
    **_small_rows(),
}
