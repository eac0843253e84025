"""Names of a run's files, and how they are found."""

from pathlib import Path

WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
METRICS = "metrics.json"
EFFECTIVE = "effective.yaml"
LAST = "last.ckpt"
BEST = "best.ckpt"


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
