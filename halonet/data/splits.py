"""One way to cut a labelled set in parts."""

from collections.abc import Sequence

import numpy as np

from halonet.data.items import Chosen
from halonet.data.source import Split, SplitItems


def stratified_split(
    labels: Sequence[int] | np.ndarray, *, val_fraction: float, test_fraction: float, seed: int
) -> tuple[list[int], list[int], list[int]]:
    """Indices of train, validation and test: disjoint, together everything, each class in its share.

    labels: one class index an item. A class of at least three items (two where a fraction is 0) is found in
    every part; a smaller one stays in train. The cut depends on `labels` and `seed` only. Each part is
    sorted.
    """
    rng = np.random.default_rng(seed)
    array = np.asarray(labels)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    wanted = [fraction for fraction in (val_fraction, test_fraction) if fraction > 0]
    # One sort for all classes: ImageNet-21k has 21841 of them and 14 million images.
    by_class = np.argsort(array, kind="stable")
    ends = np.flatnonzero(np.diff(array[by_class])) + 1
    for places in np.split(by_class, ends) if len(array) else []:
        order = rng.permutation(places)
        big_enough = len(order) > len(wanted)
        counts = [
            max(1, round(len(order) * fraction)) if fraction > 0 and big_enough else 0
            for fraction in (val_fraction, test_fraction)
        ]
        n_val, n_test = counts
        parts[1].extend(order[:n_val].tolist())
        parts[2].extend(order[n_val : n_val + n_test].tolist())
        parts[0].extend(order[n_val + n_test :].tolist())
    return sorted(parts[0]), sorted(parts[1]), sorted(parts[2])


def cut(whole: SplitItems, *, val_fraction: float, test_fraction: float, seed: int) -> dict[Split, SplitItems]:
    """The parts of `stratified_split`; none for the test where its fraction is 0."""
    train, val, test = stratified_split(whole.labels, val_fraction=val_fraction, test_fraction=test_fraction, seed=seed)
    parts: dict[Split, list[int]] = {"train": train, "val": val}
    if test_fraction > 0:
        parts["test"] = test
    labels = np.asarray(whole.labels)
    return {name: SplitItems(Chosen(whole.items, part), labels[part]) for name, part in parts.items()}
