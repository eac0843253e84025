"""The figure that judges a model, and how it is shown."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """The figure that judges a model on validation images, logged as train/NAME, val/NAME and test/NAME.

    name: in logs and metrics. higher_is_better: which way. factor, unit, digits: how it is shown. title: of its curve.
    label: of its axis. most: top of the axis, where there is one.
    """

    name: str
    higher_is_better: bool
    factor: float
    unit: str
    digits: int
    title: str
    label: str
    most: float | None = None

    def show(self, value: float) -> str:
        """The value with its unit, as "98.6 %"."""
        return f"{self.factor * value:.{self.digits}f} {self.unit}"

    def show_long(self, value: float) -> str:
        """The same with one digit more, for a single figure."""
        return f"{self.factor * value:.{self.digits + 1}f} {self.unit}"

    def better(self, new: float, old: float | None) -> bool:
        """Whether a value is at least as good as the best so far; whatever comes is better than nothing or NaN."""
        return old is None or math.isnan(old) or (new >= old if self.higher_is_better else new <= old)
