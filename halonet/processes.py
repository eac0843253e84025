"""Several processes of one run, each on a device of its own."""

from typing import TypeVar

from torch import distributed

T = TypeVar("T")


def gather(value: T) -> list[T]:
    """What every process has for `value`, by rank, in all of them; of a run that is one process, its own alone.

    Every process must call it, and `value` is pickled.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values: list[T] = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values
