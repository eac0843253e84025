"""Whether an exported program computes what the model computes, and how much it may differ."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

BATCHES = (1, 2)  # two sizes: a program that has one of them built in fails on the other
# What two right orders of rounding may differ by where the model itself loses nothing: some ten float32 steps.
BAND = 1e-6
# A program may err up to three times as much as the model in float32 does on the same images (we saw up to 2.7 times,
# on random networks that lose half their digits), so the two differ by at most four times the model's error.
TIMES = 4
MOST_ERROR = 1e-3  # of the model itself in float32; beyond, a bound would let wrong programs pass

Run = Callable[[Sequence[Tensor]], Tensor]  # a program: its inputs -> its output


@dataclass(frozen=True)
class Comparison:
    """Model and program on the same random images.

    batch: images. largest: difference of any one output. relative: root mean square of the difference as a share of
    the model's output's. bound: what `relative` may be.
    """

    batch: int
    largest: float
    relative: float
    bound: float

    @property
    def passed(self) -> bool:
        """False for anything that is no number, too."""
        return self.relative <= self.bound

    def to_dict(self) -> dict[str, float]:
        """Plain values, for JSON."""
        return asdict(self)


class Reference:
    """A model's own answers to random images, and how far they are from exact ones.

    The model runs in float32 as it stands, with the backends it would take, and once more in float64. A right program
    rounds in another order, so it may differ from the model by `TIMES` the model's own error, and `BAND`.

    Args:
        model: in evaluation mode, on the CPU.
        inputs: of as many images as the largest of `BATCHES`.

    Raises:
        ValueError: a model that loses more than `MOST_ERROR` of its answer in float32, or answers with no numbers.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, inputs: Sequence[Tensor]) -> None:
        self.inputs = {batch: [part[:batch].contiguous() for part in inputs] for batch in BATCHES}
        self.outputs = {batch: model(*parts) for batch, parts in self.inputs.items()}
        double, count = exact_copy(model), max(BATCHES)  # image by image: float64 takes twice the memory
        exact = torch.cat([double(*(part[i : i + 1].double() for part in inputs)) for i in range(count)])
        self.errors = {batch: relative_error(output, exact[:batch]) for batch, output in self.outputs.items()}
        worst = max(self.errors.values())
        if not worst <= MOST_ERROR:
            raise ValueError(
                f"the model's own answers in float32 differ from float64 by {worst:.1e} of their size, more than "
                f"{MOST_ERROR:.0e}: no comparison could tell whether a program is right"
            )

    @torch.no_grad()
    def compare(self, run: Run) -> list[Comparison]:
        """The program beside the model, for each of `BATCHES`."""
        found = []
        for batch, parts in self.inputs.items():
            expected, given = self.outputs[batch], run(parts)
            if given.shape != expected.shape:
                raise ValueError(
                    f"the program gives {tuple(given.shape)} where the model gives {tuple(expected.shape)}"
                )
            largest, bound = float((given - expected).abs().max()), TIMES * self.errors[batch] + BAND
            found.append(Comparison(batch, largest, relative_error(given, expected), bound))
        return found


def random_images(batch: int, shape: Sequence[int], *, count: int = 1, seed: int = 0) -> list[Tensor]:
    """Fields of 4 x 4 random colours with noise, so that images differ in more than noise, which pooling takes out.

    Args:
        batch: B.
        shape: (C, H, W).
        count: how many such batches; all after the first are the first with other noise, as views of a pair are.
        seed: of the random numbers.

    Returns:
        (B, C, H, W) float32 each, of about mean 0 and variance 1.
    """
    generator = torch.Generator().manual_seed(seed)
    channels, *sides = shape
    colours = torch.randn(batch, channels, 4, 4, generator=generator)
    field = nn.functional.interpolate(colours, size=sides, mode="nearest")
    noise = [torch.randn(batch, *shape, generator=generator) for _ in range(count)]
    return [(field + part) * 0.5**0.5 for part in noise]


def exact_copy(model: nn.Module) -> nn.Module:
    """The model in float64, by torch's own operations: other backends would compile kernels for this one call."""
    exact = copy.deepcopy(model).double()
    for module in exact.modules():
        if getattr(module, "backend", None) == "auto":
            module.backend = "sdpa"  # type: ignore[assignment]
    return exact


def relative_error(given: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference, as a share of that of the exact value."""
    exact = exact.double()
    return float((given.double() - exact).norm() / exact.norm().clamp_min(torch.finfo(torch.float64).tiny))
