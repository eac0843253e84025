"""Learning rate over steps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class WarmupCosine:
    """Share of the peak learning rate at optimizer step 0, 1, ..., total_steps - 1 (HaloNet, section 4.1 and
    appendix C.3).

    Step i of the warm-up has (i + 1) / warmup_steps, so that its last step is at the peak; half a cosine then
    falls to exactly `final_ratio` at the last step. Beyond the last step it stays there. A warm-up as long as
    the run never falls.
    """

    warmup_steps: int
    total_steps: int
    final_ratio: float = 1 / 128

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        peak = max(self.warmup_steps - 1, 0)
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

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self.ratio ** sum(step >= drop for drop in self.drops)
