"""Name -> model: `create_model` and `list_models`, and the same rows in timm's registry."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from torch import nn

from halonet.models import rows, vit_rows
from halonet.models.cards import TRAINING_KEYS, card_of
from halonet.models.checkpoints import fit_state_dict, load_weights
from halonet.models.config import ResidualConfig, nearest, override
from halonet.models.psmnet import PSMNet
from halonet.models.psmnet_config import PsmnetConfig
from halonet.models.psmnet_rows import PSMNETS
from halonet.models.residual import ResidualNet
from halonet.models.token_config import TokenConfig
from halonet.models.vit import POOLS, MultiScaleVit
from halonet.ops.checks import check_choice, check_positive
from halonet.ops.local_attention.checks import pair

# Arguments that are not fields of a configuration: the network's own, and those of timm's builder.
_NOT_OF_CONFIG = (
    *("num_classes", "in_chans", "drop_rate", "drop_path_rate", "global_pool", "features_only", "out_indices"),
    *("pretrained_cfg", "pretrained_cfg_overlay", "pretrained_path", "pretrained_strict", "pretrained_model_args"),
    *("cache_dir", "feature_cls"),
)

ROWS: dict[str, ResidualConfig | TokenConfig] = {**rows.ROWS, **vit_rows.ROWS}


@dataclass(frozen=True)
class _Family:
    """What models of one skeleton have in common.

    network: the skeleton. pools: values of global_pool. first_conv: name of its first convolution. feature_cfg: how
    timm makes `features_only` of it.
    """

    network: type[ResidualNet] | type[MultiScaleVit]
    pools: tuple[str, ...]
    first_conv: str
    feature_cfg: dict[str, Any] = field(default_factory=dict)


_FAMILIES = {
    ResidualConfig: _Family(
        ResidualNet, ("avg", "max", "avgmax", ""), "stem.conv.conv", feature_cfg={"flatten_sequential": True}
    ),
    TokenConfig: _Family(MultiScaleVit, POOLS, "stages.0.embedding.proj", feature_cfg={"feature_cls": "getter"}),
}

__all__ = ["create_model", "list_models", "model_config"]


def list_models(pattern: str = "*", *, task: str = "classification") -> list[str]:
    """Names of the models, sorted; `pattern` with shell wildcards, as in timm ("halonet_h*").

    Args:
        pattern: of the names.
        task: "classification", or "stereo" for networks that take a pair of pictures.

    Raises:
        ValueError: another task.
    """
    check_choice("task", task, ("classification", "stereo"))
    return sorted(fnmatch.filter(ROWS if task == "classification" else PSMNETS, pattern or "*"))


def is_detector(name: str) -> bool:
    """Whether a name begins as those of `halonet.detection` do, and no model's here."""
    return name.startswith(("maskrcnn", "fasterrcnn", "retinanet"))


def model_config(name: str, **overrides: Any) -> ResidualConfig | TokenConfig | PsmnetConfig:
    """The configuration of a row, with options changed by field name (see `halonet.models.config.override`).

    Raises:
        ValueError: an unknown model or option, with the nearest right names.
    """
    known = {**ROWS, **PSMNETS}
    if name not in known:
        hint = ": halonet.detection builds detectors" if is_detector(name) else nearest(name, known)
        raise ValueError(f"unknown model {name!r}{hint}")
    return override(known[name], overrides)


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    drop_rate: float | None = 0.0,
    drop_path_rate: float | None = 0.0,
    global_pool: str = "avg",
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    pretrained_path: str | PathLike[str] | None = None,
    **overrides: Any,
) -> nn.Module:
    """A model by name.

    A stereo network, of `list_models(task="stereo")`, takes `in_chans`, `img_size`, `pretrained_path` and the overrides
    alone of these.

    Args:
        name: one of `list_models()`.
        num_classes: outputs of the classifier; 0 for pooled features; 1000 if None.
        in_chans: channels of the images; 3 if None.
        img_size: side or (height, width) it is meant for. Every model runs at any size; this sets `default_cfg` and
            the stored size of absolute position tables.
        drop_rate: dropout before the classifier; None: what the model's card has (`halonet.models.cards`).
        drop_path_rate: stochastic depth of the last block, growing linearly from the first; None: the card's.
        global_pool: "avg", "max", or "" for none; of tokens "avg", "token" for the class token, or "".
        features_only: a model that returns a list of maps instead of logits.
        out_indices: which of `feature_info` it returns; all if None.
        pretrained_path: weights to load, see `halonet.models.checkpoints.load_weights`.
        overrides: options of the configuration by field name, for all stages or as a list with one value a stage:
            `block_size=12`, `relative="full"`, `squeeze_excite=0.125`, `activation="silu"`.

    Raises:
        ValueError: an unknown model or option, a value out of its range, or weights that do not fit.
    """
    model_config(name, **overrides)  # a wrong name or option is told before anything is built
    given: dict[str, Any] = {
        "num_classes": num_classes,
        "in_chans": in_chans,
        "img_size": img_size,
        "out_indices": out_indices,
    }
    if name in PSMNETS:
        plain = (drop_rate or 0.0, drop_path_rate or 0.0, global_pool, features_only, num_classes, out_indices)
        if plain != (0.0, 0.0, "avg", False, None, None):
            raise ValueError(f"{name} is a stereo network: it has no classifier, dropout or feature maps to choose")
        return _build_stereo(name, in_chans=in_chans, img_size=img_size, pretrained_path=pretrained_path, **overrides)
    card = card_of(name, ROWS[name].image_shape)
    return _build(
        name,
        drop_rate=card["drop_rate"] if drop_rate is None else drop_rate,
        drop_path_rate=card["drop_path_rate"] if drop_path_rate is None else drop_path_rate,
        global_pool=global_pool,
        features_only=features_only,
        pretrained_path=pretrained_path,
        **{key: value for key, value in given.items() if value is not None},
        **overrides,
    )


def _build(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Builds a row by timm's own builder, which adds `default_cfg`, `features_only` and pretrained files."""
    described = {
        key: value
        for key, value in options.items()
        if key in ("in_chans", "img_size", "global_pool") or key not in _NOT_OF_CONFIG
    }
    config, options = _split_options(name, options)
    pretrained_path = options.pop("pretrained_path", None)
    overlay = dict(options.pop("pretrained_cfg_overlay", None) or {})
    # timm reads the channels of a pretrained file here, to adapt the first convolution to others; what built the model
    # of a folder or of the hub, it hands over.
    saved = dict(options.get("pretrained_model_args") or {}).get("in_chans", config.in_chans)
    in_chans = saved if pretrained else options.get("in_chans") or config.in_chans
    overlay.setdefault("input_size", (in_chans, *config.image_shape))

    family = _FAMILIES[type(config)]

    def construct(**arguments: Any) -> nn.Module:
        model = family.network(config, **arguments)  # type: ignore[arg-type]
        model.model_name, model.model_arguments = name, described
        if pretrained_path is not None:
            load_weights(model, pretrained_path)
        return model

    levels = len(config.stages) + (isinstance(config, ResidualConfig) and config.stem == "conv7")
    _check_options(options, levels, family.pools)
    model: Any = build_model_with_cfg(
        construct,
        name,
        pretrained,
        pretrained_cfg_overlay=overlay,
        pretrained_filter_fn=fit_state_dict,
        feature_cfg={**family.feature_cfg, "out_indices": tuple(range(levels))},
        **options,
    )
    # timm's description, `pretrained_cfg`, stays what timm can read back; the card is that and how to train.
    card = card_of(name, ROWS[name].image_shape)
    model.default_cfg = {**model.pretrained_cfg, **{key: card[key] for key in TRAINING_KEYS}}
    return model


def _build_stereo(name: str, *, pretrained_path: str | PathLike[str] | None, **options: Any) -> PSMNet:
    """Builds a row of PSMNETS, which timm, whose models take one image, has no place for."""
    described = {key: value for key, value in options.items() if value is not None}
    changes = dict(described)
    if "img_size" in changes:
        changes["image_size"] = pair("img_size", changes.pop("img_size"), minimum=1)
    model = PSMNet(override(PSMNETS[name], changes))
    model.model_name, model.model_arguments = name, described
    model.default_cfg = {
        "architecture": name,
        "input_size": (model.config.in_chans, *model.config.image_shape),
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
    }
    if pretrained_path is not None:
        load_weights(model, pretrained_path)
    return model


def _split_options(name: str, options: dict[str, Any]) -> tuple[ResidualConfig | TokenConfig, dict[str, Any]]:
    """The configuration that the options ask for, and the options that are not the configuration's."""
    rest = {key: options.pop(key) for key in _NOT_OF_CONFIG if key in options}
    img_size = options.pop("img_size", None)
    config = override(ROWS[name], options)
    if img_size is not None:
        config = replace(config, image_size=pair("img_size", img_size, minimum=1))
    return config, rest


def _check_options(options: dict[str, Any], levels: int, pools: tuple[str, ...]) -> None:
    """Ranges of the arguments that are not of a configuration."""
    num_classes = options.get("num_classes", 0)
    if not isinstance(num_classes, int) or num_classes < 0:
        raise ValueError(f"num_classes must be an int of at least 0, got {num_classes!r}")
    check_positive("in_chans", options.get("in_chans", 1))
    for name in ("drop_rate", "drop_path_rate"):
        rate = options.get(name, 0.0)
        if not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise ValueError(f"{name} must be a number from 0 up to, not including, 1, got {rate!r}")
    check_choice("global_pool", options.get("global_pool", "avg"), pools)
    wanted = options.get("out_indices")
    if wanted is not None and not isinstance(wanted, int) and not all(-levels <= index < levels for index in wanted):
        raise ValueError(f"out_indices must be from {-levels} to {levels - 1}, got {tuple(wanted)}")


def _default_cfg(name: str, config: ResidualConfig | TokenConfig) -> dict[str, Any]:
    """What timm keeps of a model beside its weights; there are none."""
    card = card_of(name, config.image_shape)
    return {
        "url": "",
        "num_classes": config.num_classes,
        "input_size": (config.in_chans, *config.image_shape),
        "pool_size": None,
        **{key: value for key, value in card.items() if key not in TRAINING_KEYS},
        "first_conv": _FAMILIES[type(config)].first_conv,
        "classifier": "head.fc",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs({name: _default_cfg(name, config) for name, config in ROWS.items()})


def _register(name: str) -> None:
    """Makes `timm.create_model(name)` build the row. A name of timm's own is never taken."""
    if is_model(name):
        raise RuntimeError(f"timm has a model {name!r} of its own; give the row another name")

    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        return _build(name, pretrained=pretrained, **options)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"The row {name!r} of halonet.models."
    globals()[name] = register_model(entry)


for _name in ROWS:
    _register(_name)
