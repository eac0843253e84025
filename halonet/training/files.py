"""Names of a run's files, how they are found, and which of its checkpoints are whole."""

import os
import re
import zipfile
from pathlib import Path

WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
METRICS = "metrics.json"
EFFECTIVE = "effective.yaml"
STEPS = "steps.csv"
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
BEST = "best.ckpt"


def older(number: int) -> str:
    """Name of the newest checkpoint but `number`: last.ckpt, last-1.ckpt, last-2.ckpt, ..."""
    return f"{Path(LAST).stem}-{number}.ckpt" if number else LAST


def kept_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder of checkpoints, newest first; the best one last, as it may be far behind."""
    numbered = {int(match[1] or 0): path for path in folder.glob("*.ckpt") if (match := _is_last(path))}
    best = folder / BEST
    return [numbered[number] for number in sorted(numbered)] + ([best] if best.is_file() else [])


def _is_last(path: Path) -> re.Match[str] | None:
    return re.fullmatch(r"last(?:-(\d+))?\.ckpt", path.name)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint was written to its end and reads as it was written, by the sums in the file itself."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
        return False


def resolve_checkpoint(ckpt_path: str, *, out: str) -> Path:
    """`ckpt_path` itself, or for "last" the newest whole checkpoint of the run below `out` that was last written to.

    A run that was killed before its first checkpoint has none: the last.ckpt it would have written is given. Raises
    ValueError if there is no run, or no checkpoint of it is whole.
    """
    if ckpt_path != "last":
        return Path(ckpt_path)
    folders = [path.parent for path in Path(out).glob(f"*/*/{CONFIG}")]
    if not folders:
        raise ValueError(f"ckpt_path: no run below {out} to go on from")
    folder = max(folders, key=_last_written) / CHECKPOINTS
    found = kept_checkpoints(folder)
    whole = next((path for path in found if is_whole(path)), None)
    if found and whole is None:
        raise ValueError(f"ckpt_path: {', '.join(path.name for path in found)} in {folder}: none is whole")
    return whole or folder / LAST


def _last_written(folder: Path) -> int:
    files = [folder / CONFIG, folder / STEPS, *kept_checkpoints(folder / CHECKPOINTS)]
    return max(path.stat().st_mtime_ns for path in files if path.is_file())


def passed_over(checkpoint: Path) -> list[Path]:
    """Newer checkpoints beside this one that are damaged."""
    found = kept_checkpoints(checkpoint.parent)
    newer = found[: found.index(checkpoint)] if checkpoint in found else []
    return [path for path in newer if not is_whole(path)]


def starts_over(checkpoint: Path) -> bool:
    """Whether this is the last.ckpt of a run that was killed before it wrote any."""
    folder = checkpoint.parent
    return checkpoint.name == LAST and (folder.parent / CONFIG).is_file() and not kept_checkpoints(folder)


def run_folder_of(path: Path) -> Path | None:
    """The run folder that a checkpoint or weights file lies in, known by its config.yaml."""
    for folder in (path.parent, path.parent.parent):
        if (folder / CONFIG).is_file():
            return folder
    return None


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that are no more had begun to write in a run's folder (see `halonet.files.replacing`)."""
    for path in [*folder.glob(".*"), *(folder / CHECKPOINTS).glob(".*")]:
        match = re.fullmatch(r"\..+\.(\d+)(\.\w+)?", path.name)
        if match and path.is_file() and not _lives(int(match[1])):
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether another process has this number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True
