"""What a command line names as the thing to export: a run's folder, a file of weights, or a model by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from halonet.files import replacing
from halonet.models import create_model, from_pretrained
from halonet.models.checkpoints import describe, load_model
from halonet.models.hub import HubModel
from halonet.models.model_card import LICENSE, model_card
from halonet.training.files import CONFIG, METRICS, WEIGHTS

_PREPROCESSING = ("mean", "std", "crop_pct")


@dataclass(frozen=True)
class Source:
    """A model, the text kept with its weights, and of a run what it measured and its settings.

    trained: False where the weights are random.
    """

    model: nn.Module
    metadata: dict[str, str]
    metrics: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    trained: bool = True


def open_source(name: str, *, img_size: tuple[int, int] | None = None) -> Source:
    """Opens a run's folder, a folder of the Hub's form, a safetensors file, or a model by name with random weights.

    Args:
        name: which.
        img_size: (height, width) of the images, in place of the model's own.

    Raises:
        ValueError: nothing of that name, or weights that do not fit.
    """
    path = Path(name)
    changes: dict[str, Any] = {} if img_size is None else {"img_size": list(img_size)}
    if path.is_dir() and not (path / WEIGHTS).is_file():
        model = from_pretrained(path, **changes)
        assert isinstance(model, HubModel)
        return Source(model, _text(model.weights_metadata or {}, img_size))
    if path.is_dir() or path.is_file():
        file = path / WEIGHTS if path.is_dir() else path
        model, metadata = load_model(file, **changes)
        run = file.parent if file.name == WEIGHTS else None
        metrics, settings = (None, None) if run is None else (_json(run / METRICS), _yaml(run / CONFIG))
        return Source(model, _text(metadata, img_size), metrics=metrics, settings=settings)
    if path.suffix or len(path.parts) > 1:
        raise ValueError(f"{name}: expected a run's folder, a file of weights or a model's name, found nothing there")
    return Source(create_model(name, **changes), {}, trained=False)


def program_metadata(source: Source) -> dict[str, str]:
    """The text that a program carries: what built the model, class names and preprocessing; most values are JSON."""
    card: Any = source.model.default_cfg
    own = {name: json.dumps(card[name]) for name in _PREPROCESSING if card.get(name) is not None}
    return {**own, **source.metadata, **describe(source.model)}


def write_hub_folder(
    source: Source, folder: Path, *, license: str = LICENSE, repo_id: str | None = None
) -> dict[str, Any]:
    """Writes model.safetensors, config.json and README.md; returns what `push_to_hub` is to be given for the card."""
    assert isinstance(source.model, HubModel)
    source.model.weights_metadata = source.metadata
    facts: dict[str, Any] = {
        "metrics": source.metrics,
        "settings": source.settings,
        "license": license,
        "repo_id": repo_id,
    }
    text = model_card(source.model, metadata=source.metadata, **facts)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "README.md") as beside:
        beside.write_text(text, encoding="utf-8")
    source.model.save_pretrained(folder)
    return facts


def _text(metadata: Mapping[str, str], img_size: tuple[int, int] | None) -> dict[str, str]:
    """Metadata without what built the model, which the model tells itself, and with the side asked for."""
    text = {name: text for name, text in metadata.items() if name not in ("model", "arguments")}
    if img_size is not None and "img_size" in text:
        del text["img_size"]
        if img_size[0] == img_size[1]:
            text["img_size"] = json.dumps(img_size[0])
    return text


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _yaml(path: Path) -> dict[str, Any] | None:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None
