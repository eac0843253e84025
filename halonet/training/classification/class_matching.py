"""Which of the weights' classes a folder's class is: by its own name, by one that a map gives it, or by number."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path


def read_class_map(path: str | Path) -> dict[str, str]:
    """{folder: class} of a JSON object, or of a text file with a folder, a space and its class's name on each line.

    Empty lines and those that begin with # are left out. Raises ValueError for a file that is missing or neither.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"data.class_map: cannot read {path} ({type(error).__name__})") from error
    if text.lstrip().startswith(("{", "[")):
        return _from_json(text, path)
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong is not None or not pairs:
        got = "no line" if wrong is None else repr(wrong[0])
        raise ValueError(f"data.class_map: {path}: expected a folder and its class on each line, got {got}")
    return _without_repeats(pairs, path)


def _from_json(text: str, path: Path) -> dict[str, str]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise ValueError(f"data.class_map: {path} is no JSON: {error}") from error
    expected = all(isinstance(pair, tuple) and isinstance(pair[1], str) for pair in pairs)
    if not pairs or not expected:
        raise ValueError(f"data.class_map: {path}: expected a JSON object {{folder: class}} of texts")
    return _without_repeats(pairs, path)


def _without_repeats(pairs: Sequence[Sequence[str]], path: Path) -> dict[str, str]:
    told: dict[str, str] = {}
    for folder, name in pairs:
        if told.setdefault(folder, name) != name:
            raise ValueError(f"data.class_map: {path} gives {folder} two classes, {told[folder]} and {name}")
    return told


def match_classes(
    names: Sequence[str],
    known: Sequence[str] | None,
    *,
    num_classes: int,
    class_map: Mapping[str, str] | None = None,
    data: str = "data",
    weights: str = "weights",
) -> list[int]:
    """The weights' class of each of the data's classes.

    A name that `class_map` has stands for the one it gives. If then every name is one of the weights', that is the
    match; if not, and all are whole numbers, they are numbers of classes. Several names may be one class, and classes
    of the weights may be left over.

    Args:
        names: classes of the data, each once.
        known: the weights' classes in their order; None for weights that name none: then classes go by number, by
            their place in `class_map`, or, if there are as many as the weights have outputs, by their order.
        num_classes: outputs of the weights.
        class_map: {name: another}.
        data, weights: what error messages call the two.

    Raises:
        ValueError: a name without a class; the message lists those.
    """
    renames = class_map or {}
    if known is None and len(renames) == num_classes and not all(map(_is_number, renames.values())):
        # The map says the order: what it calls them does not matter.
        known, renames = list(renames), {}
    wanted = [renames.get(name, name) for name in names]
    if known is not None:
        indices = {name: index for index, name in enumerate(known)}
        if all(name in indices for name in wanted):
            return [indices[name] for name in wanted]
    if all(_is_number(name) for name in wanted):
        outside = [name for name in wanted if int(name) >= num_classes]
        if not outside:
            return [int(name) for name in wanted]
        raise ValueError(
            f"data.root: {_some(outside)} of {data}: no class of {weights}, which has {num_classes}, 0 to "
            f"{num_classes - 1}"
        )
    if known is None:
        if len(names) == num_classes and not renames:
            return list(range(num_classes))
        raise ValueError(
            f"data.root: {weights} does not name its {num_classes} classes: expected as many in {data}, folders named "
            f"by number, or a data.class_map of all, got {len(names)}: {_some(names)}"
        )
    unmatched = [name for name in wanted if name not in indices]
    raise ValueError(
        f"data.root: {len(unmatched)} of {len(names)} classes of {data} are unknown to {weights}: {_some(unmatched)}; "
        f"it knows {_some(known)}; data.class_map can rename them"
    )


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
