"""One run of `halonet bench`: defaults for the machine, the table, and the files that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from halonet.analysis.speed.factorized_table import PEERS as FACTORIZED_PEERS
from halonet.analysis.speed.factorized_table import factorized_table
from halonet.analysis.speed.layer_table import LAYERS, layer_table
from halonet.analysis.speed.loader_table import loader_table
from halonet.analysis.speed.measuring import write_report
from halonet.analysis.speed.memory_table import memory_table
from halonet.analysis.speed.model_table import MODES, model_table
from halonet.analysis.speed.op_table import op_table, scaling_table
from halonet.analysis.speed.shapes import stages_of
from halonet.analysis.speed.vil_table import PEERS as VIL_PEERS
from halonet.analysis.speed.vil_table import vil_table
from halonet.models import list_models

OP_MODELS = ("halonet_h0_256",)
OP_PEERS = ("halonet", "reference", "sdpa", "sdpa-bias", "dense")
MODELS = ("halonet_h0_256", "efficientnet_b0@256")
SCALING_SIDES = (32, 64, 128, 256, 512)
BATCH, LOADER_BATCH = 4, 64
VIL_SIDES = (32, 64, 128, 256)


def run(
    *,
    kind: str,
    models: Sequence[str] | None,
    peers: Sequence[str] | None,
    sides: Sequence[int] | None,
    batch: int | None,
    rounds: int,
    data: Path | None,
    workers: int | None,
    device: str | None,
    dtype: str | None,
    threads: int | None,
    limit: float | None,
    compile: bool,
    modes: Sequence[str] | None,
    apart: bool,
    processor_time: bool,
    json: Path | None,
    png: Path | None,
) -> None:
    """Measures and prints; None stands for the default of the machine. The arguments are those of the command line.

    Raises:
        ValueError: a model, peer or device that there is not, or a model without local attention.
    """
    if kind == "loader":
        report = loader_table(data=data, workers=workers, batch=batch or LOADER_BATCH, rounds=rounds)
        write_report(report, json)
        return
    if kind == "detection" and png:
        raise ValueError("png must be left out for detection, which has no picture")
    images, batch = batch, batch or BATCH
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    numbers = getattr(torch, dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
    if threads:
        torch.set_num_threads(threads)
    torch._dynamo.config.recompile_limit = 1024  # beyond it, further shapes would silently run uncompiled
    common: dict[str, Any] = {"batch": batch, "dtype": numbers, "device": device, "rounds": rounds}
    if kind in ("op", "layer"):
        names = models or OP_MODELS
        for name in names:
            if name not in list_models():
                raise ValueError(f"models must be names that `halonet models` lists, got {name!r}")
        shapes = [shape for name in names for shape in stages_of(name)]
        table, default = (op_table, OP_PEERS) if kind == "op" else (layer_table, LAYERS)
        report = table(shapes, peers=peers or default, **common)
    elif kind == "scaling":
        report = scaling_table(sides or SCALING_SIDES, peers=peers or OP_PEERS, **common)
    elif kind == "memory":
        del common["rounds"]
        report = memory_table(peers=peers or OP_PEERS, limit_gib=limit, **common)
    elif kind == "vil":
        report = vil_table(sides or VIL_SIDES, peers=peers or VIL_PEERS, **common)
    elif kind == "factorized":
        sides, peers = sides or SCALING_SIDES, peers or FACTORIZED_PEERS
        report = factorized_table(sides, peers=peers, limit_gib=limit, **common)
    elif kind == "detection":
        from halonet.analysis.speed import detector_table as detection  # torchvision's detectors take time to import

        common["batch"] = images or detection.BATCH
        rows = models or detection.ROWS
        common |= {"parts": peers or detection.PARTS, "limit_gib": limit}
        report = detection.detector_table(sides or detection.SIDES, rows=rows, **common)
    else:
        common |= {"modes": modes or MODES, "apart": apart, "processor_time": processor_time, "compiled": compile}
        report = model_table(models or MODELS, **common)
    write_report(report, json)
    if png:
        from halonet.analysis.speed.plot import plot_report

        plot_report(kind, report, png)
