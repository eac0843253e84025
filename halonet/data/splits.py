"""One way to cut a labelled set in three."""

from collections.abc import Sequence

import numpy as np


def stratified_split(
    labels: Sequence[int], *, val_fraction: float, test_fraction: float, seed: int
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
    for label in np.unique(array):
        order = rng.permutation(np.flatnonzero(array == label))
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
