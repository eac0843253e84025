"""Names for the classes of a set, from the lists that go around: JSON or lines of text."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from halonet.data.source import ImageSource, Part, Split, SplitItems, StreamItems

EXPECTED = 'expected JSON {"id": "name"}, {"0": ["id", "name"]} or ["name", ...], or lines of text "id name"'


def read_class_map(path: str | Path) -> dict[str, str]:
    """Name of each class by its id, in the order of the file; the ids of a bare list are "0", "1", ...

    Raises:
        ValueError: no such file, or none of the forms, or an id that comes twice.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"data.class_map: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"data.class_map: {path} is no text: {EXPECTED}") from error
    pairs = _from_json(text, path) if text.lstrip().startswith(("{", "[")) else _from_lines(text, path)
    if not pairs:
        raise ValueError(f"data.class_map: {path} names no class: {EXPECTED}")
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"data.class_map: {path} names the class {twice[0]} twice")
    return dict(pairs)


def _from_json(text: str, path: Path) -> list[tuple[str, str]]:
    try:
        values = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except json.JSONDecodeError as error:
        raise ValueError(f"data.class_map: {path} is no JSON (line {error.lineno}: {error.msg})") from error
    if text.lstrip().startswith("["):
        values = [(str(number), value) for number, value in enumerate(values)]
    return [_pair(key, value, path) for key, value in values]


def _pair(key: str, value: Any, path: Path) -> tuple[str, str]:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value):
        return value[0], value[1]
    if not isinstance(value, str) or not value:
        raise ValueError(f"data.class_map: {path}: {key}: expected a name, got {value!r}; {EXPECTED}")
    return key, value


def _from_lines(text: str, path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(maxsplit=1)
        if not words or line.startswith("#"):
            continue
        if len(words) == 1:
            raise ValueError(f"data.class_map: {path}, line {number}: expected an id and a name, got {line.strip()!r}")
        pairs.append((words[0], words[1].strip()))
    return pairs


def with_class_map(source: ImageSource, path: str | Path) -> ImageSource:
    """The set with the names of the file at `path`.

    A file that lists every class of the set also gives their order, and so their numbers. One that lists some changes
    the names of those. Where the set's ids are numbers and the file's are not, class i is line i.

    Raises:
        ValueError: see `read_class_map`; or the file lists none of the classes.
    """
    names = read_class_map(path)
    ids = source.class_ids or source.class_names
    if ids == tuple(map(str, range(len(ids)))) and len(names) == len(ids) and not names.keys() & set(ids):
        names = dict(zip(ids, names.values(), strict=True))
    known = [name for name in ids if name in names]
    if not known:
        raise ValueError(
            f"data.class_map: {path} lists none of the classes of {source.name}: it has {', '.join(list(names)[:3])}, "
            f"the data {', '.join(ids[:3])}"
        )
    if len(known) < len(ids):
        changed = tuple(names.get(key, name) for key, name in zip(ids, source.class_names, strict=True))
        return replace(source, class_ids=ids, class_names=told_apart(changed, ids))
    present = set(ids)
    ordered = tuple(key for key in names if key in present)
    numbers = {key: number for number, key in enumerate(ordered)}
    new = [numbers[key] for key in ids]
    splits: dict[Split, Part] = {part: relabelled(items, new) for part, items in source.splits.items()}
    class_names = told_apart(tuple(names[key] for key in ordered), ordered)
    return replace(source, class_ids=ordered, class_names=class_names, splits=splits)


def relabelled(part: Part, numbers: Sequence[int]) -> Part:
    """The same images, of class `numbers[i]` where they were of class i."""
    relabel = np.asarray(numbers, np.int64)
    if isinstance(part, SplitItems):
        return SplitItems(part.items, relabel[np.asarray(part.labels, np.int64)])
    return StreamItems(part.shards, relabel if part.relabel is None else relabel[part.relabel])


def told_apart(names: Sequence[str], ids: Sequence[str]) -> tuple[str, ...]:
    """Names with the id added to those that come twice: ImageNet has two classes called crane."""
    counts = Counter(names)
    return tuple(f"{name} ({key})" if counts[name] > 1 else name for name, key in zip(names, ids, strict=True))
