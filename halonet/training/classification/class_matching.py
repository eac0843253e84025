"""Which of the weights' classes a folder's class is: by its own name, by one that a map gives it, or by number."""

from collections.abc import Mapping, Sequence


def match_classes(
    names: Sequence[str],
    known: Sequence[str] | None,
    *,
    num_classes: int,
    class_map: Mapping[str, str] | None = None,
    ids: Sequence[str] | None = None,
    known_ids: Sequence[str] | None = None,
    data: str = "data",
    weights: str = "weights",
) -> list[int]:
    """The weights' class of each of the data's classes.

    A name that `class_map` has stands for the one it gives. If then every name is one of the weights', that is the
    match; if not, the same is tried with what the data call their classes by (`ids`), and if all names are whole
    numbers, they are numbers of classes. Several names may be one class, and classes of the weights may be left over.

    Args:
        names: classes of the data, each once.
        known: the weights' classes in their order; None for weights that name none: then classes go by number, by
            their place in `class_map`, or, if there are as many as the weights have outputs, by their order.
        num_classes: outputs of the weights.
        class_map: {name: another}.
        ids, known_ids: what the data, and those that the weights learnt from, call their classes where that is not
            the name, as ImageNet's WordNet ids.
        data, weights: what error messages call the two.

    Raises:
        ValueError: a name without a class; the message lists those.
    """
    renames = class_map or {}
    if known is None and len(renames) == num_classes and not all(map(_is_number, renames.values())):
        # The map says the order: what it calls them does not matter.
        known, renames = list(renames), {}
    wanted = [renames.get(key, renames.get(name, name)) for key, name in zip(ids or names, names, strict=True)]
    indices = {name: index for index, name in enumerate(known or ())}
    by_id = {name: index for index, name in enumerate(known_ids or ())}
    for tried, places in ((wanted, indices), (wanted, by_id), (ids or (), by_id), (ids or (), indices)):
        if tried and all(name in places for name in tried):
            return [places[name] for name in tried]
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
