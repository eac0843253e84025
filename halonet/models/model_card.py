"""The card (README.md) of a model's folder: what it is, how it was trained, what was measured, what was not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from torch import nn

from halonet.models.facts import figures
from halonet.models.psmnet import PSMNet

LICENSE = "apache-2.0"  # the library's own
_MEASURED_ON = ("device", "threads", "python", "torch", "halonet")
_NOT_SETTINGS = ("out", "name", "trainer")  # of a run: where it wrote, and its machine


def model_card(
    model: nn.Module,
    *,
    metadata: Mapping[str, str],
    metrics: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    license: str = LICENSE,
    repo_id: str | None = None,
) -> str:
    """The card as Markdown with YAML front matter, as the Hugging Face Hub reads it.

    Args:
        model: of `create_model`.
        metadata: of its weights.
        metrics: what a run measured, its metrics.json; the card says so where there was none.
        settings: of the run, its config.yaml.
        license: of the weights, as the Hub names it.
        repo_id: "user/name" for the lines that show how it is used.

    Raises:
        ValueError: a repo_id or license that the Hub's format refuses.
    """
    name = str(model.model_name)
    parts = [
        f"---\n{front_matter(model, name, metrics, license).strip()}\n---\n",
        f"# {repo_id or name}\n",
        _introduction(model, name, metadata),
        _use(model, repo_id or "FOLDER"),
        _training(metrics, settings),
        _measured(metrics, settings),
        _published(name),
        _limits(metrics, metadata),
    ]
    return "\n".join(parts)


def front_matter(model: nn.Module, name: str, metrics: Mapping[str, Any] | None, license: str) -> str:
    """What the Hub sorts models by, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    stereo = isinstance(model, PSMNet)
    task = "depth-estimation" if stereo else "image-classification"
    tags = ["halonet", "pytorch", "stereo-matching" if stereo else "timm", name]
    data = str(metrics["data"]) if metrics else None
    results = [
        EvalResult(
            task_type=task,
            dataset_type=_identifier(str(data)),
            dataset_name=f"{data}, {_test_part(metrics)}",
            metric_type=key,
            metric_value=value,
        )
        for key, value in (metrics or {}).get("test", {}).items()
        if metrics is not None and key != "loss"
    ]
    card = ModelCardData(
        license=license,
        library_name="halonet",
        pipeline_tag=task,
        tags=tags,
        datasets=[_identifier(data)] if data else None,
        metrics=[result.metric_type for result in results] or None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    return str(card.to_yaml())


def _identifier(name: str) -> str:
    """A data set's name with nothing that the Hub refuses in one."""
    return "".join(sign if sign.isalnum() or sign in "-_./" else "-" for sign in name).strip("-./") or "unnamed"


def _introduction(model: nn.Module, name: str, metadata: Mapping[str, str]) -> str:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    card: Any = model.default_cfg
    channels, height, width = card["input_size"]
    lines = [f"`{name}` of the library halonet: {parameters:,} parameters, images of {height} x {width} x {channels}."]
    if "class_names" in metadata:
        names = json.loads(metadata["class_names"])
        shown = ", ".join(map(str, names[:10])) + (f", and {len(names) - 10} more" if len(names) > 10 else "")
        lines.append(f"It tells {len(names)} classes apart: {shown}.")
    told = {key: metadata.get(key, json.dumps(card.get(key))) for key in ("mean", "std", "crop_pct")}
    if not isinstance(model, PSMNet):
        lines.append(
            f"Pictures are resized and cut to that size (the centre crop keeps {told['crop_pct']}), scaled to 0 to 1, "
            f"and normalized by mean {told['mean']} and standard deviation {told['std']}."
        )
    return "\n".join(lines) + "\n"


def _use(model: nn.Module, name: str) -> str:
    lines = ["## Use", "", "```python", "import halonet", "", f'model = halonet.from_pretrained("{name}")', "```", ""]
    if not isinstance(model, PSMNet):
        source = "local-dir:FOLDER" if name == "FOLDER" else f"hf-hub:{name}"
        lines += ["or by timm, which has the models where halonet is imported:", "", "```python", "import timm", ""]
        lines += ["import halonet", "", f'model = timm.create_model("{source}", pretrained=True)', "```", ""]
    lines.append("`model.weights_metadata` holds class names and preprocessing as JSON.")
    return "\n".join(lines) + "\n"


def _training(metrics: Mapping[str, Any] | None, settings: Mapping[str, Any] | None) -> str:
    if not metrics and not settings:
        return "## Training\n\nNothing is known of a training: these weights may be random.\n"
    lines = ["## Training", ""]
    if metrics:
        counts = next((value for key in ("images", "pairs") if isinstance(value := metrics.get(key), dict)), {})
        told = ", ".join(f"{count} {part}" for part, count in counts.items())
        lines.append(
            f"Data: {metrics['data']}{f' ({told})' if told else ''}. The weights are those after epoch "
            f"{metrics.get('epoch')} of {metrics.get('epochs')}, the best on the validation part; training took "
            f"{metrics.get('training_seconds')} s.\n"
        )
    if settings:
        lines += ["Settings, with those of the trainer last:", "", "```json"]
        kept = {key: value for key, value in settings.items() if key not in _NOT_SETTINGS}
        lines += [json.dumps(_without_paths({**kept, "trainer": settings.get("trainer")}), indent=1), "```"]
    return "\n".join(lines) + "\n"


def _without_paths(settings: Any) -> Any:
    """Settings with no path of the machine they ran on: what a file or folder is called stays."""
    if isinstance(settings, Mapping):
        return {key: _without_paths(value) for key, value in settings.items()}
    if isinstance(settings, str) and "/" in settings and "://" not in settings:
        return settings.rstrip("/").rsplit("/", 1)[-1]
    return settings


def _test_part(metrics: Mapping[str, Any] | None) -> str:
    return "validation part" if metrics and metrics.get("test_is_val") else "test part"


def _measured(metrics: Mapping[str, Any] | None, settings: Mapping[str, Any] | None) -> str:
    if not metrics:
        return "## Measured\n\nNothing.\n"
    machine = ", ".join(f"{key} {metrics[key]}" for key in _MEASURED_ON if key in metrics)
    lines = [
        "## Measured",
        "",
        f"By `halonet fit` at the end of the training, on the {_test_part(metrics)}",
        f"({machine}):",
    ]
    lines += ["", "| figure | value |", "|---|---|"]
    lines += [f"| {key} | {value:.6g} |" for key, value in metrics["test"].items()]
    limit = ((settings or {}).get("trainer") or {}).get("limit_test_batches", 1.0)
    if limit != 1.0 or isinstance(limit, int):
        share = f"{limit} batches" if isinstance(limit, int) else f"a share of {limit:g}"
        lines.append(f"\nOf that part {share} alone was used (`limit_test_batches`).")
    return "\n".join(lines) + "\n"


def _published(name: str) -> str:
    lines = ["## Published, not reproduced", ""]
    printed = [figure for figure in figures(name) if figure.published is not None]
    units = {"parameters": "million parameters", "multiply_adds": "billion multiply-adds an image"}
    for figure in printed:
        size = f" at {figure.image_size} pixels" if figure.image_size else ""
        lines.append(f"- {figure.published:g} {units[figure.quantity]}{size} ({figure.source})")
    lines += [f"- {text}" for text in published_scores(name)]
    if len(lines) == 2:
        return "## Published, not reproduced\n\nNo paper speaks of this model that we know of.\n"
    lines.append("\nThese are the papers' figures for the architecture. They say nothing of these weights.")
    return "\n".join(lines) + "\n"


def published_scores(name: str) -> list[str]:
    """What the headers of the recipes for a model tell as published."""
    found = []
    for file in sorted(resources.files("halonet").joinpath("recipes").iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".yaml"):
            continue
        lines = file.read_text(encoding="utf-8").splitlines()
        if any(line.split() == ["name:", name] for line in lines):
            for index, line in enumerate(lines):
                if line.startswith("# Published:"):
                    found.append(_header_entry(lines, index))
    return found


def _header_entry(lines: list[str], first: int) -> str:
    """An entry of a recipe's header, with the lines it goes on in."""
    text = [lines[first].split(":", 1)[1].strip()]
    for line in lines[first + 1 :]:
        if not line.startswith("#  "):
            break
        text.append(line.lstrip("# ").strip())
    return " ".join(text)


def _limits(metrics: Mapping[str, Any] | None, metadata: Mapping[str, str]) -> str:
    lines = ["## Limits", ""]
    if metrics:
        lines.append(
            f"- Measured once, with one seed, on {metrics['data']}; how it does on other pictures is not known."
        )
    if metrics and metrics.get("test_is_val"):
        lines.append("- There was no test part: the figures are those of the images that the epoch was chosen by.")
    if "class_names" in metadata:
        lines.append("- It knows its own classes alone and names one of them whatever the picture shows.")
    lines.append("- It was not examined for bias, nor for safety in any use.")
    return "\n".join(lines) + "\n"
