"""timm's models with halo or bottleneck attention, as they are and by `halonet.accelerate`, on this CPU.

    python -m benchmarks.accelerate [--json OUT] [--batch 4] [--threads 2] [--rounds 5] [--models NAME ...]

The same weights, float32, each model at its own image size. First a gate: against timm's model in float64, our outputs
are off by at most twice what timm's in float32 are, or no speed is printed. Then interleaved rounds; times are medians,
ratios are medians of the ratios within a round.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import halonet
from halonet.analysis.speed.measuring import compare, describe, interleaved_times, print_setting, write_report

BAND = 1e-5  # of the largest output: what rounding may add where timm happens to round luckily
MODELS = (
    "halonet_h1",
    "halonet26t",
    "halonet50ts",
    "sehalonet33ts",
    "eca_halonext26ts",
    "haloregnetz_b",
    "lamhalobotnet50ts_256",
    "halo2botnet50ts_256",
    "botnet26t_256",
    "sebotnet33ts_256",
    "botnet50ts_256",
)
MODES = ("forward", "training step")


def models_of(name: str) -> tuple[dict[str, nn.Module], int]:
    """timm's model and ours with its weights; no parameter is zero, behind which attention would not show."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    for parameter in model.parameters():
        if parameter.abs().max() == 0:
            nn.init.uniform_(parameter.data, 0.1, 0.5)
    ours, count = halonet.accelerate(copy.deepcopy(model))
    return {"timm": model, "halonet": ours}, count


def errors(models: dict[str, nn.Module], image: Tensor) -> dict[str, float]:
    """Largest error of each model's outputs against timm's in float64, as a share of the largest output.

    Raises:
        SystemExit: ours is larger than twice timm's and BAND, or not a number.
    """
    with torch.no_grad():
        exact = copy.deepcopy(models["timm"]).double().eval()(image.double())
        largest = exact.abs().max()
        shares = {name: ((model.eval()(image) - exact).abs().max() / largest).item() for name, model in models.items()}
    if not shares["halonet"] <= 2 * shares["timm"] + BAND:
        raise SystemExit(
            f"outputs are off by {shares['halonet']:.1e}, timm's by {shares['timm']:.1e}; nothing is timed"
        )
    return shares


def run_once(model: nn.Module, image: Tensor, mode: str) -> None:
    """A prediction, or forward and backward in training mode."""
    if mode == "forward":
        with torch.no_grad():
            model.eval()(image)
        return
    model.train().zero_grad(set_to_none=True)
    model(image).square().mean().backward()


def run(names: Sequence[str], *, batch: int, rounds: int) -> dict[str, Any]:
    """Gate and times of the models; prints a line for each as it comes."""
    report: dict[str, Any] = {"setting": describe(dtype="float32", batch=batch, rounds=rounds), "models": {}}
    print_setting(report["setting"])
    print(f"{'':22} replaced   off by  timm's  {'':13} {'timm':>10} {'halonet':>10}  times as fast")
    for name in names:
        models, count = models_of(name)
        image = torch.randn(batch, *models["timm"].default_cfg["input_size"])  # type: ignore[index]
        shares = errors(models, image)
        entry: dict[str, Any] = {"replaced": count, "errors": shares}
        for mode in MODES:
            calls = {key: partial(run_once, model, image, mode) for key, model in models.items()}
            entry[mode] = rows = compare(interleaved_times(calls, rounds), "timm")
            theirs, ours = rows["timm"], rows["halonet"]
            off = f"{shares['halonet']:8.0e} {shares['timm']:7.0e}"
            median = f"{theirs['median_ms']:7.1f} ms {ours['median_ms']:7.1f} ms"
            print(f"{name:22} {count:8} {off}  {mode:13} {median} {ours['times_as_fast']:9.2f}")
        report["models"][name] = entry
    return report


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    parser.add_argument("--batch", type=int, default=4, help="images (default 4)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of timing (default 5)")
    parser.add_argument("--models", nargs="+", default=MODELS, metavar="NAME", help="of timm (default: all that have)")
    options = parser.parse_args(arguments)
    for name in ("batch", "threads", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be positive, got {getattr(options, name)}")
    torch.set_num_threads(options.threads)
    write_report(run(options.models, batch=options.batch, rounds=options.rounds), options.json)


if __name__ == "__main__":
    main()
