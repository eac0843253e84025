"""Whole models beside each other at their image sizes: images a second in evaluation and in training steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional as F

from halonet.analysis.speed.measuring import (
    describe,
    device_of,
    interleaved_times,
    print_setting,
    tell_networks,
)
from halonet.analysis.speed.memory import memory_meter
from halonet.layers import AttentionLayer
from halonet.ops.local_attention.backends import BACKENDS

MODES = ("inference", "training step")


def model_table(
    names: Sequence[str],
    *,
    batch: int,
    dtype: torch.dtype,
    device: str,
    rounds: int,
    compiled: bool = False,
    channels_last: bool = True,
    modes: Sequence[str] = MODES,
    apart: bool = False,
    processor_time: bool = False,
) -> dict[str, Any]:
    """Times of models, printed as they come; ratios are to the first.

    names: models of timm's registry, ours among them; NAME@PIXELS for another image size than the model's own,
        NAME:BACKEND (or NAME@PIXELS:BACKEND) for a net of ours whose layers are to use that backend.
    dtype: of autocast; float32 for none. A training step is forward, loss, backward and an SGD step.
    modes: of MODES, which of them to measure.
    apart: one model after the other in place of rounds over all, so that one alone is in memory, whose peak is then not
        measured. What else a machine does meanwhile meets some models and not others: ratios mean less.
    processor_time: measure what this process has of a CPU in place of time on the clock, for a machine that does other
        things too.

    Raises:
        ValueError: a name that timm has not, a device that is not there, or processor time of a GPU.
    """
    on = device_of(device)
    if processor_time and on.type != "cpu":
        raise ValueError(f"processor_time must be left out on a GPU, got device {device}")
    for name in names:
        parts_of(name)
    told = {"compiled": str(compiled), "channels_last": str(channels_last)}
    told |= {"rounds_over": "one model after the other"} if apart else {}
    told |= {"clock": "processor time"} if processor_time else {}
    setting = describe(device=on, dtype=str(dtype).removeprefix("torch."), batch=batch, rounds=rounds, **told)
    print_setting(setting)
    report: dict[str, Any] = {"setting": setting}
    make = partial(_call, batch=batch, dtype=dtype, device=on, compiled=compiled, last=channels_last)
    clock = time.process_time if processor_time else time.perf_counter
    for mode in modes:
        peaks: dict[str, float | None] = dict.fromkeys(names)
        if not apart:
            with memory_meter(on) as meter:
                peaks = {name: meter(partial(make, name, mode)) for name in names}
        times: dict[str, list[float]] = {}
        for group in [[name] for name in names] if apart else [names]:
            times |= interleaved_times({name: make(name, mode) for name in group}, rounds, on, clock=clock)
        report[mode] = tell_networks(mode, times, names[0], batch=batch, peaks=peaks)
    return report


def _call(
    name: str, mode: str, *, batch: int, dtype: torch.dtype, device: torch.device, compiled: bool, last: bool
) -> Callable[[], object]:
    """One evaluation or training step of a new model on the same random images every time."""
    model, side = _model(name)
    memory = torch.channels_last if last else torch.contiguous_format
    model = model.to(device=device, memory_format=memory)  # type: ignore[call-overload]
    images = torch.randn(batch, 3, *side, device=device).to(memory_format=memory)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    lowered = nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
    forward = torch.compile(model) if compiled else model
    if mode == "inference":
        model.eval()

        def infer() -> object:
            with torch.no_grad(), lowered:
                return forward(images)

        return infer
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> object:
        with lowered:
            loss = F.cross_entropy(forward(images).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return None

    return step


def parts_of(name: str) -> tuple[str, int | None, str]:
    """The model's own name, the side of its image if one is asked for, and the backend or "".

    Raises:
        ValueError: it is none of the forms of `model_table`, or there is no such model or backend.
    """
    rest, _, backend = name.partition(":")
    plain, at, pixels = rest.partition("@")
    if at and not (pixels.isdigit() and int(pixels) > 0):
        raise ValueError(f"models must be NAME or NAME@PIXELS, got {name!r}")
    if not timm.is_model(plain):
        raise ValueError(f"models must be names of timm's registry, got {name!r}")
    if backend and backend not in BACKENDS:
        raise ValueError(f"models must be NAME:BACKEND with one of {', '.join(BACKENDS)}, got {name!r}")
    return plain, int(pixels) if at else None, backend


def _model(name: str) -> tuple[nn.Module, tuple[int, int]]:
    """A model of timm's registry and the image it is meant for, or the one that its name asks for."""
    plain, pixels, backend = parts_of(name)
    torch.manual_seed(0)
    model = timm.create_model(plain)
    if backend:
        layers = [layer for layer in model.modules() if isinstance(layer, AttentionLayer)]
        if not layers:
            raise ValueError(f"models with a backend must be nets of this library with attention, got {name!r}")
        for layer in layers:
            layer.backend = backend
    if pixels is not None:
        return model, (pixels, pixels)
    _, height, width = timm.data.resolve_model_data_config(model)["input_size"]
    return model, (height, width)
