"""What commands that are not for detectors say to one who gives them a detector."""

from pathlib import Path

from halonet.cli.words import UsageError
from halonet.models.zoo import is_detector


def refuse_detector(given: str | Path, *, instead: str) -> None:
    """Raise UsageError for the name of a detector, a file of one's weights, or a run's folder with such a file.

    instead: what to do, the end of the message; NAME in it becomes the detector's.
    """
    name = str(given) if is_detector(str(given)) else _model_in(Path(given))
    if name is not None:
        told = "is a detector" if name == str(given) else f"holds the detector {name}"
        raise UsageError(f"{given} {told}: {instead.replace('NAME', name)}")


def _model_in(path: Path) -> str | None:
    """The detector whose weights lie there; None where nothing does, or another model's."""
    from halonet.models.checkpoints import DETECTION, read_metadata

    file = path / "weights.safetensors" if path.is_dir() else path
    if file.suffix != ".safetensors" or not file.is_file():
        return None
    metadata = read_metadata(file)
    return metadata.get("model", "") if metadata.get("task") == DETECTION else None
