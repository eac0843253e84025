"""The folder a run leaves behind."""

import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities import rank_zero_only

import halonet
from halonet.files import replacing
from halonet.training.config import RunConfig
from halonet.training.files import CONFIG, METRICS


def first_process() -> bool:
    """Whether this is the process that writes; the others of a run on several devices only compute."""
    return (getattr(rank_zero_only, "rank", 0) or 0) == 0


def new_run_folder(config: RunConfig, *, data_name: str) -> Path:
    """OUT/NAME/DATE_TIME, made now by the first process; a number is added where two runs start in the same second."""
    parent = Path(config.out) / (config.name or f"{config.model.name.replace('/', '-')}-{data_name}")
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    for attempt in range(1, 1000):
        folder = parent / (stamp if attempt == 1 else f"{stamp}_{attempt}")
        if not first_process():
            return folder
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"out: no free folder name left in {parent}")


def write_config(config: RunConfig, folder: Path) -> None:
    """Every setting of the run, as YAML that --config reads."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False)
    _write_text(folder / CONFIG, text)


def write_metrics(metrics: dict[str, Any], folder: Path) -> None:
    """Figures, the history, and what they were measured on, as JSON, which has null for what is no number."""
    text = json.dumps(_plain(metrics), indent=2) + "\n"
    _write_text(folder / METRICS, text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def environment(device: torch.device) -> dict[str, str | int]:
    """What a figure depends on besides the settings."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "halonet": halonet.__version__,
    }


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")
