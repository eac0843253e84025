"""What ImageNet's development kit says: the names of the classes, and which of them the validation images show."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

DEVKIT = "ILSVRC2012_devkit_t12"
META = "meta.mat"
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


@dataclass(frozen=True)
class Devkit:
    """names: by WordNet id, the synset's words, as in "tench, Tinca tinca". truth: WordNet id of each validation image,
    in the order of their file names."""

    names: dict[str, str]
    truth: tuple[str, ...]


def read_devkit(root: Path) -> Devkit | None:
    """The kit in `root`, packed as it comes or unpacked; None where there is none.

    Its numbers are ILSVRC2012_IDs, which are not the numbers that classes sorted by WordNet id get.

    Raises:
        ValueError: it is damaged.
    """
    files = _packed(root / f"{DEVKIT}.tar.gz") or _unpacked(root)
    if files is None:
        return None
    meta, truth = files
    wnids, names = _synsets(meta, root)
    try:
        numbers = [int(line) for line in truth.decode().split()]
        return Devkit(names, tuple(wnids[number] for number in numbers))
    except (ValueError, KeyError) as error:
        raise ValueError(f"data.root: {TRUTH} in {root} does not fit {META}: {error}") from error


def _packed(path: Path) -> tuple[bytes, bytes] | None:
    if not path.is_file():
        return None
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:gz") as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                file = tar.extractfile(member) if name in (META, TRUTH) else None
                if file is not None:
                    found[name] = file.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(f"data.root: cannot read {path}: {error}") from error
    missing = [name for name in (META, TRUTH) if name not in found]
    if missing:
        raise ValueError(f"data.root: {path} lacks {' and '.join(missing)}")
    return found[META], found[TRUTH]


def _unpacked(root: Path) -> tuple[bytes, bytes] | None:
    for folder in (root / DEVKIT / "data", root / "devkit" / "data", root / "data", root):
        if (folder / META).is_file() and (folder / TRUTH).is_file():
            return (folder / META).read_bytes(), (folder / TRUTH).read_bytes()
    return None


def _synsets(meta: bytes, root: Path) -> tuple[dict[int, str], dict[str, str]]:
    """WordNet id by ILSVRC2012_ID, and words by WordNet id, of the classes that images have: the leaves."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        leaves = [row for row in synsets.ravel() if int(row["num_children"]) == 0]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in leaves}
        return wnids, {str(row["WNID"]): str(row["words"]) for row in leaves}
    # scipy reports a damaged file as one of many unrelated types.
    except ImportError:
        raise
    except Exception as error:
        raise ValueError(f"data.root: cannot read {META} in {root}: {type(error).__name__}") from error
