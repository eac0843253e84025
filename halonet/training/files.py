"""Names of a run's files, and how they are written and found."""

import os
from collections.abc import Callable
from pathlib import Path

WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
METRICS = "metrics.json"
LAST = "last.ckpt"
BEST = "best.ckpt"


def write_beside(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a neighbour of `path`, then rename it over; if anything fails, `path` is as before and
    the neighbour gone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix, which tells some writers the format
    try:
        write(beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def resolve_checkpoint(ckpt_path: str, *, out: str) -> Path:
    """`ckpt_path` itself, or for "last" the newest last.ckpt of any run below `out`. Raises ValueError if
    there is none."""
    if ckpt_path != "last":
        return Path(ckpt_path)
    found = list(Path(out).glob(f"*/*/checkpoints/{LAST}"))
    if not found:
        raise ValueError(f"ckpt_path: no run below {out} has a checkpoint to go on from")
    return max(found, key=lambda path: path.stat().st_mtime_ns)


def run_folder_of(path: Path) -> Path | None:
    """The run folder that a checkpoint or weights file lies in, known by its config.yaml."""
    for folder in (path.parent, path.parent.parent):
        if (folder / CONFIG).is_file():
            return folder
    return None
