"""What the page can open: files of weights, and every model of the library by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import Any

from halonet.detection import DETECTORS, detector_config, list_detectors
from halonet.detection.rows import KINDS
from halonet.models import list_models, model_config
from halonet.models.checkpoints import DETECTION, read_metadata
from halonet.models.config import ResidualConfig, nearest
from halonet.models.token_config import TokenConfig

CLASSIFICATION, STEREO = "classification", "stereo"
TASKS = (CLASSIFICATION, DETECTION, STEREO)


@dataclass(frozen=True)
class Dial:
    """A number of a model's local attention that can be changed, of all stages that have it.

    name: of the option. own: the values that the model's stages have. least, most, step: what it can be, in pixels.
    """

    name: str
    label: str
    own: tuple[int, ...]
    least: int
    most: int
    step: int = 1


@dataclass(frozen=True)
class Choice:
    """A model that can be opened.

    key: what the page calls it. name: of the row. arguments: of `create_model` or `create_detector`. weights: the file;
    None: random ones. metadata: of the file.
    """

    key: str
    name: str
    task: str
    arguments: dict[str, Any]
    weights: Path | None
    metadata: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """What the page is told."""
        return {"key": self.key, "name": self.name, "task": self.task, "weights": self.weights and str(self.weights)}


def of_weights(path: Path) -> Choice:
    """A file that `halonet fit` wrote. Raises ValueError for another one."""
    metadata = read_metadata(path)
    if "model" not in metadata or "arguments" not in metadata:
        raise ValueError(f"{path} does not say which model it holds: not written by halonet fit")
    task = metadata.get("task", CLASSIFICATION)
    if task not in TASKS:
        raise ValueError(f"{path} is of the task {task!r}: expected one of {', '.join(TASKS)}")
    return Choice(f"file {path}", metadata["model"], task, json.loads(metadata["arguments"]), path, metadata)


def of_name(name: str) -> Choice:
    """A model, stereo network or detector by name. Raises ValueError, with the nearest names, for an unknown one."""
    if name in DETECTORS or name.partition("/")[0] in KINDS:
        detector_config(name)  # "KIND/BACKBONE" is told here where it is wrong
        return Choice(name, name, DETECTION, {}, None, {})
    for task in (CLASSIFICATION, STEREO):
        if name in list_models(task=task):
            return Choice(name, name, task, {}, None, {})
    raise ValueError(f"unknown model {name!r}{nearest(name, all_names())}")


def all_names() -> list[str]:
    """Every name that `of_name` takes, a pair KIND/BACKBONE left out."""
    return [*list_models(), *list_models(task=STEREO), *list_detectors()]


def catalog(given: Sequence[Choice]) -> list[dict[str, Any]]:
    """What the page lists: what was given first, then all names."""
    keys = {choice.key for choice in given}
    rest = [of_name(name) for name in all_names() if name not in keys]
    return [choice.to_dict() for choice in (*given, *rest)]


def dials_of(choice: Choice) -> tuple[Dial, ...]:
    """What of a model's attention can be changed with its weights carried over."""
    config = _network_config(choice)
    if isinstance(config, ResidualConfig):
        local = [stage for stage in config.stages if "halo" in stage.slots]
        if any(stage.window for stage in local):
            return (Dial("window", "window", tuple(int(stage.window or 0) for stage in local), 1, 21, 2),)
        sizes = [(stage.block_size, stage.halo_size) for stage in local]
        if local and all(isinstance(side, int) for size in sizes for side in size):
            blocks, halos = zip(*sizes, strict=True)
            # A block holds whole strides.
            step = lcm(*(stage.stride for stage in local if stage.slots[0] == "halo" and stage.downsample == "query"))
            return Dial("block_size", "block", blocks, step, 32, step), Dial("halo_size", "halo", halos, 0, 16)
    if isinstance(config, TokenConfig):
        windows = tuple(stage.window for stage in config.stages if stage.attention == "vil")
        return (Dial("window", "window", windows, 3, 31, 2),) if windows else ()
    return ()


def channels_of(choice: Choice) -> int:
    """Of the pictures that a model reads."""
    return 3 if choice.task == DETECTION else int(_network_config(choice).in_chans)


def with_changes(choice: Choice, changes: dict[str, int]) -> dict[str, Any]:
    """The arguments that build the model with its dials turned. Raises ValueError for what is no dial of it, or a
    number out of a dial's range."""
    dials = {dial.name: dial for dial in dials_of(choice)}
    for name, value in changes.items():
        dial = dials.get(name)
        if dial is None:
            raise ValueError(f"{name}: {choice.name} has none to change; it has {', '.join(dials) or 'nothing'}")
        if not dial.least <= value <= dial.most or (value - dial.least) % dial.step:
            raise ValueError(f"{name}: expected {dial.least} to {dial.most} in steps of {dial.step}, got {value}")
    if choice.task != DETECTION:
        return {**choice.arguments, **changes}
    options = {**choice.arguments.get("backbone_options", {}), **changes}
    return {**choice.arguments, "backbone_options": options} if options else dict(choice.arguments)


def _network_config(choice: Choice) -> Any:
    """The configuration of the network that attends; None of one that is not ours."""
    if choice.task != DETECTION:
        overrides = {name: value for name, value in choice.arguments.items() if name not in _NOT_OF_CONFIG}
        return model_config(choice.name, **overrides)
    detector = detector_config(choice.name, **choice.arguments)
    if detector.backbone not in list_models():
        return None
    options = {key: value for key, value in detector.backbone_options.items() if key not in _NOT_OF_CONFIG}
    return model_config(detector.backbone, **options)


# Arguments of create_model that its configurations do not have, or not so.
_NOT_OF_CONFIG = ("img_size", "global_pool", "drop_rate", "drop_path_rate")
