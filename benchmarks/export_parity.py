"""Whether models, at their own image sizes, compute the same as programs of torch.export and onnxruntime.

    python -m benchmarks.export_parity                                    # every model, the cheapest first
    python -m benchmarks.export_parity 'halonet_h0*' --formats onnx
    python -m benchmarks.export_parity --task stereo
    python -m benchmarks.export_parity --json parity.json --resume        # goes on where it was stopped
    python -m benchmarks.export_parity --json parity.json --table         # what it has, by family, as Markdown

Every model is drawn at random, with no branch at zero and norms that know the images, traced once with a free batch,
written, loaded again, and compared with the model on batches of 1 and 2; see `halonet.export.parity` for the bound.
Each runs in a process of its own, on one thread. Exit status 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch import Tensor, nn

import halonet
from halonet.export import FORMATS, Exporter
from halonet.export.parity import random_images
from halonet.files import replacing
from halonet.models.network import Network

# Families of the table, by how their models' names begin.
FAMILIES: dict[str, tuple[str, ...]] = {
    "HaloNet": ("halonet",),
    "BoTNet": ("botnet",),
    "Vision Longformer": ("vil",),
    "multi-scale and flat ViT": ("msvit", "evit"),
    "ResNet, SENet, SASA and mixtures": ("resn", "senet", "sasa"),
    "PSMNet": ("psmnet", "fa_", "nl_"),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the models one after the other and keeps what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pattern", nargs="?", default="*", help="of names, such as 'halonet_h*' (default: all)")
    parser.add_argument("--task", choices=("classification", "stereo"), default="classification")
    parser.add_argument("--formats", nargs="+", choices=tuple(FORMATS), default=list(FORMATS))
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures, after each model")
    parser.add_argument("--resume", action="store_true", help="leave out models that FILE has without an error")
    parser.add_argument("--table", action="store_true", help="run nothing, print what FILE has as Markdown")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(read_report(options.json)))
        return 0
    report = read_report(options.json) if options.resume else {"models": {}}
    report["setting"] = setting()
    done = {name for name, entry in report["models"].items() if "error" not in entry}
    names = [name for name in cheapest_first(options.pattern, options.task) if name not in done]
    print(f"{report['setting']}, {len(names)} models")
    for name in names:
        entry = in_own_process(name, options.formats)
        report["models"][name] = entry
        print(f"{name:28} {line(entry)}", flush=True)
        if options.json is not None:
            with replacing(options.json) as beside:
                beside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(any("error" in report["models"][name] for name in names))


def read_report(path: Path | None) -> dict[str, Any]:
    """What an earlier run left, or an empty report."""
    if path is None or not path.is_file():
        return {"models": {}}
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def setting() -> dict[str, str]:
    """What the figures depend on."""
    return {
        "device": f"cpu ({platform.machine()}), 1 thread",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "halonet": halonet.__version__,
    }


def cheapest_first(pattern: str, task: str) -> list[str]:
    """Names by pixels times parameters, which is about what convolutions cost."""
    costs = {}
    for name in halonet.list_models(pattern, task=task):
        with torch.device("meta"):
            model = halonet.create_model(name)
        height, width = model.default_cfg["input_size"][1:]
        costs[name] = height * width * sum(parameter.numel() for parameter in model.parameters())
    return sorted(costs, key=lambda name: costs[name])


def in_own_process(name: str, formats: list[str]) -> dict[str, Any]:
    """`judge` where its memory is given back, and where a process that is killed ends no other."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(judge, name, formats).result()
        except BrokenProcessPool:
            return {"error": "its process was ended, as for want of memory"}


def judge(name: str, formats: list[str]) -> dict[str, Any]:
    """Of one model the comparisons of each format, or what went wrong."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    start = time.perf_counter()
    entry: dict[str, Any] = {}
    try:
        exporter = Exporter(wake(halonet.create_model(name)))
        entry |= {"input_size": exporter.shape, "own_error": max(exporter.reference.errors.values())}
        for format in formats:
            with tempfile.TemporaryDirectory() as folder:
                written = exporter.write(Path(folder) / f"model{FORMATS[format]}", format=format)
            entry[format] = {
                "largest": max(item.largest for item in written.comparisons),
                "relative": max(item.relative for item in written.comparisons),
                "share_of_bound": round(max(item.relative / item.bound for item in written.comparisons), 3),
                "seconds": round(written.seconds, 1),
                "megabytes": round(written.megabytes, 1),
            }
    except Exception as error:  # whatever it is, the models after it are judged all the same
        entry["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    entry["seconds"] = round(time.perf_counter() - start, 1)
    entry["peak_gigabytes"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 1)
    return entry


@torch.no_grad()
def wake(model: nn.Module) -> nn.Module:
    """The model with nothing at its first value that would hide a mistake: no zeros, and norms that know the images.

    Random networks are not trained ones: branches that begin at zero get a tenth of the weight, and a norm divides all
    its channels by the same number. With whole branches, or where channels that hardly vary are blown up, HaloNets of
    random weights amplify their own rounding until nothing of the answer is left to compare.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.any():
                is_scale = module in norms and parameter is module.weight
                nn.init.constant_(parameter, 0.1) if is_scale else nn.init.normal_(parameter, std=0.02)
    if isinstance(model, Network):  # what comes of the image is not to drown in the bias
        nn.init.normal_(model.get_classifier().weight, std=0.1)
    hooks = [norm.register_forward_pre_hook(_take_statistics) for norm in norms]
    shape: Any = model.default_cfg["input_size"]
    model.eval()(*random_images(2, shape, count=1 if isinstance(model, Network) else 2))
    for hook in hooks:
        hook.remove()
    return model


def _take_statistics(norm: Any, inputs: tuple[Tensor]) -> None:
    """Sets a norm to what it is about to see: a mean a channel, one variance of all."""
    channels = inputs[0].transpose(0, 1).flatten(1)
    norm.running_mean.copy_(channels.mean(1))
    norm.running_var.fill_(float(channels.var(1).mean()))


def table(report: dict[str, Any]) -> str:
    """A report as a Markdown table, a line a family: of each figure the largest."""
    families: dict[str, list[dict[str, Any]]] = {family: [] for family in FAMILIES}
    for name, entry in report["models"].items():
        families[next(family for family, begins in FAMILIES.items() if name.startswith(begins))].append(entry)
    lines = ["| family | models | failed | own error | onnx | of its bound | pt2 | of its bound |"]
    lines.append("|" + "---|" * 8)
    for family, entries in families.items():
        right = [entry for entry in entries if "error" not in entry]
        if not entries:
            continue
        errors = [entry["own_error"] for entry in right]
        cells = [family, str(len(entries)), str(len(entries) - len(right)), f"{max(errors, default=0):.1e}"]
        for format in FORMATS:
            found = [entry[format] for entry in right if format in entry]
            cells.append(f"{max((item['relative'] for item in found), default=0):.1e}" if found else "")
            cells.append(f"{max((item['share_of_bound'] for item in found), default=0):.2f}" if found else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def line(entry: dict[str, Any]) -> str:
    """An entry in one line."""
    if "error" in entry:
        return f"FAILED {entry['error']}"
    parts = [f"own error {entry['own_error']:.1e}"]
    for format in FORMATS:
        if format in entry:
            found = entry[format]
            parts.append(
                f"{format} largest {found['largest']:.1e} relative {found['relative']:.1e} "
                f"({found['share_of_bound']:.2f} of the bound) "
                f"{found['seconds']:.0f} s {found['megabytes']:.1f} MB"
            )
    return ", ".join([*parts, f"all {entry['seconds']:.0f} s, {entry['peak_gigabytes']:.1f} GB"])


if __name__ == "__main__":
    sys.exit(main())
