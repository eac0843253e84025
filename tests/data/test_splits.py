"""Splits: disjoint, complete, stratified, repeatable."""

import pytest

from halonet.data import stratified_split

LABELS = [0] * 50 + [1] * 30 + [2] * 10


def test_every_item_is_in_exactly_one_part() -> None:
    parts = stratified_split(LABELS, val_fraction=0.1, test_fraction=0.2, seed=0)
    assert sorted(index for part in parts for index in part) == list(range(90))


def test_each_class_has_its_share_in_each_part() -> None:
    train, val, test = stratified_split(LABELS, val_fraction=0.1, test_fraction=0.2, seed=0)
    counts = [[sum(LABELS[i] == label for i in part) for label in range(3)] for part in (train, val, test)]
    assert counts == [[35, 21, 7], [5, 3, 1], [10, 6, 2]]


def test_the_seed_alone_decides() -> None:
    split = lambda seed: stratified_split(LABELS, val_fraction=0.1, test_fraction=0.2, seed=seed)  # noqa: E731
    assert split(3) == split(3)
    assert split(3) != split(4)


def test_small_classes() -> None:
    """Three items reach all three parts; two stay in train."""
    train, val, test = stratified_split([0, 0, 0, 1, 1], val_fraction=0.1, test_fraction=0.1, seed=0)
    assert (len(val), len(test)) == (1, 1)
    assert {3, 4} <= set(train)


@pytest.mark.parametrize("val_fraction", [0.3, 0.5])
def test_without_a_test_part(val_fraction: float) -> None:
    train, val, test = stratified_split([0] * 10, val_fraction=val_fraction, test_fraction=0.0, seed=0)
    assert (len(train), len(val), test) == (10 - round(10 * val_fraction), round(10 * val_fraction), [])
