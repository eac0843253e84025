"""Learning rate over steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


def warmed_up(step: int, *, steps: int, start: float) -> float:
    """Share of the peak at `step` of a linear warm-up of `steps`.

    start: the share at step 0, from which the rate rises to the peak at step `steps`, as TensorFlow's detectors do it
    (start + (1 - start) * step / steps). 0: the first step does learn, (step + 1) / steps, and the last of the warm-up
    is at the peak.
    """
    return start + (1 - start) * step / steps if start else (step + 1) / steps


@dataclass(frozen=True)
class WarmupCosine:
    """Share of the peak learning rate at optimizer step 0, 1, ..., total_steps - 1 (HaloNet, section 4.1 and
    appendix C.3).

    Step i of the warm-up has (i + 1) / warmup_steps, so that its last step is at the peak (see `warmed_up` for
    another `start`); half a cosine then falls to exactly `final_ratio` at the last step. Beyond the last step it stays
    there. A warm-up as long as the run never falls.
    """

    warmup_steps: int
    total_steps: int
    final_ratio: float = 1 / 128
    start: float = 0.0

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return warmed_up(step, steps=self.warmup_steps, start=self.start)
        peak = self.warmup_steps if self.start else max(self.warmup_steps - 1, 0)
        progress = min(1.0, (step - peak) / max(1, self.total_steps - 1 - peak))
        return self.final_ratio + (1 - self.final_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class WarmupSteps:
    """Share of the peak learning rate that is 1 after the warm-up and `ratio` times less from each step of `drops` on.

    The warm-up is that of `WarmupCosine`. Without drops the rate stays at its peak.
    """

    warmup_steps: int
    drops: tuple[int, ...]
    ratio: float = 0.1
    start: float = 0.0

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return warmed_up(step, steps=self.warmup_steps, start=self.start)
        return self.ratio ** sum(step >= drop for drop in self.drops)
