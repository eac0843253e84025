"""Weights in files: safetensors with what built the model beside them, and loading into a model that differs."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from halonet.files import replacing
from halonet.models.config import stage_fields
from halonet.ops import resize_bias, resize_table

TABLES = ("height_table", "width_table")
BIASES = ("bias_table",)
HEAD = ("head.fc.weight", "head.fc.bias")
DETECTION = "detection"  # "task" in the metadata of a detector's weights


@dataclass
class LoadReport:
    """What loading did, by parameter name."""

    loaded: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)


def save_weights(model: nn.Module, path: str | PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a model's weights as safetensors, with its name and configuration, so that `load_model` can rebuild it.

    Args:
        model: a model of `create_model` (not `features_only`).
        path: file to write; written beside and renamed.
        metadata: further text to keep with the weights.

    Raises:
        OSError: the file cannot be written; an older one is as it was.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(path) as beside:
        try:
            save_file(state, beside, metadata={**describe(model), **(metadata or {})})
        except SafetensorError as error:  # how a full disk is told; the old file stays
            raise OSError(f"cannot write {path}: {error}") from error


def load_weights(model: nn.Module, path: str | PathLike[str]) -> LoadReport:
    """Loads a safetensors file into a model that may differ in image size, block, halo or number of classes.

    Position tables of another length are interpolated linearly (HaloNet, appendix E). A classifier for another number
    of classes is left as the model has it.

    Raises:
        ValueError: the file is missing or damaged, or anything else does not fit; the message lists the keys.
    """
    state, metadata = read_weights(path)
    fitted, report = _fit(state, model)
    _check_keys(fitted, model, report, f"{path}{_other_model(metadata, model)}")
    model.load_state_dict(fitted, strict=False)
    return report


def load_model(path: str | PathLike[str], **overrides: Any) -> tuple[nn.Module, dict[str, str]]:
    """Rebuilds the model a file of `save_weights` was written from, with its weights.

    Args:
        path: the file.
        overrides: arguments of `create_model` that are to differ from the saved model's.

    Returns:
        The model, and the file's metadata.

    Raises:
        ValueError: the file does not say what built it, or does not fit.
    """
    from halonet.models.zoo import create_model

    metadata = read_metadata(path)
    if metadata.get("task") == DETECTION:
        raise ValueError(f"{path} holds the detector {metadata.get('model')}: halonet.detection.load_detector opens it")
    if "model" not in metadata or "arguments" not in metadata:
        raise ValueError(f"{path} does not say which model it holds; was it written by save_weights?")
    arguments = {**json.loads(metadata["arguments"]), **overrides}
    return create_model(metadata["model"], pretrained_path=path, **arguments), metadata


def read_weights(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        ValueError: the file is missing or damaged.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118 (not a dict)


def read_metadata(path: str | PathLike[str]) -> dict[str, str]:
    """Of a safetensors file, without its tensors. Raises ValueError as `read_weights` does."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: str | PathLike[str]) -> Iterator[Any]:
    if not Path(path).is_file():
        raise ValueError(f"no weights file at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file of weights of any origin: safetensors, or what torch.save wrote, of its entry "state_dict"
    if it has one.

    Raises:
        ValueError: the file is missing or damaged, needs more than tensors and plain values, or holds something else.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_weights(path)[0]
    if not path.is_file():
        raise ValueError(f"no weights file at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files, some over many lines
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} is not a readable file of weights: {reason}") from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a state dict of tensors, got {type(state).__name__}")
    return dict(state)


def counts_batches(name: str) -> bool:
    """Whether a tensor tells how many batches a norm has seen, which old files do not."""
    return name.endswith("num_batches_tracked")


def fit_state_dict(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """A state dict with its position tables resized to the model's (the filter timm calls on pretrained files)."""
    return _fit(state, model, keep_head=True)[0]


def _fit(
    state: Mapping[str, Tensor], model: nn.Module, *, keep_head: bool = False
) -> tuple[dict[str, Tensor], LoadReport]:
    """Resizes tables, leaves out a classifier of other size; 0 classes, no classifier at all, on either side too."""
    own, fitted, report = model.state_dict(), {}, LoadReport()
    for name, tensor in state.items():
        expected = own[name].shape if name in own else None
        other_head = expected is None or (expected != tensor.shape and tensor.shape[1:] == expected[1:])
        if name in HEAD and other_head and not keep_head:
            report.replaced.append(name)
            continue
        fitted[name] = tensor if expected is None else resized(name, tensor, expected)
        (report.loaded if fitted[name] is tensor else report.resized).append(name)
    if not keep_head and not any(name in state for name in HEAD):
        report.replaced += [name for name in HEAD if name in own]
    return fitted, report


def resized(name: str, tensor: Tensor, expected: torch.Size) -> Tensor:
    """A position table, or one of biases, at the size that a model has it in; itself if it cannot be."""
    if name.endswith(TABLES) and tensor.ndim == len(expected) == 2 and tensor.shape[1] == expected[1]:
        return resize_table(tensor, expected[0])
    if name.endswith(BIASES) and tensor.ndim == len(expected) == 3 and tensor.shape[0] == expected[0]:
        return resize_bias(tensor, (expected[1], expected[2]))
    return tensor


def _other_model(metadata: Mapping[str, str], model: nn.Module) -> str:
    """For an error message: which model the file says it is of, if that is another one."""
    saved, own = metadata.get("model"), getattr(model, "model_name", None)
    return f" (of {saved}, not {own})" if saved and own and saved != own else ""


def _check_keys(fitted: Mapping[str, Tensor], model: nn.Module, report: LoadReport, origin: str) -> None:
    told = key_faults(fitted, model.state_dict(), optional=report.replaced)
    if told:
        raise ValueError(f"weights in {origin} are not of this model; {told}")


def key_faults(given: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, optional: Collection[str] = ()) -> str:
    """What keeps tensors from being those of a model, for an error message; nothing where they are.

    Args:
        given: tensors by name.
        expected: the model's.
        optional: names that may be missing.
    """
    faults = {
        "missing": [name for name in expected if name not in given and name not in optional],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
            for name, tensor in given.items()
            if name in expected and tensor.shape != expected[name].shape
        ],
    }
    return "; ".join(f"{len(names)} {fault}: {some_of(names)}" for fault, names in faults.items() if names)


def some_of(names: list[str], most: int = 8) -> str:
    """The first of many names, for an error message."""
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def describe(model: nn.Module) -> dict[str, str]:
    """What a file of weights says of its model: "model" and, as JSON, "arguments" of `create_model`; nothing where the
    model does not know them."""
    name, arguments = getattr(model, "model_name", None), getattr(model, "model_arguments", None)
    if name is None or arguments is None:
        return {}
    # JSON has no pairs, and `override` takes a list for one value a stage: a pair for all stages becomes such a list.
    config: Any = model.config
    stages, of_stages = len(getattr(config, "stages", ())), stage_fields(config)
    listed = {
        key: [value] * stages if isinstance(value, tuple) and key in of_stages else value
        for key, value in arguments.items()
    }
    if hasattr(model, "num_classes"):
        listed["num_classes"] = model.num_classes
    return {"model": name, "arguments": json.dumps(listed)}
