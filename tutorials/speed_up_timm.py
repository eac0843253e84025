"""Make a model of timm faster, and see that it stays the same.

What you learn: `halonet.accelerate` puts our op in place of timm's halo and bottleneck attention, in one line; outputs
and state dict stay what they were; how to measure what it gains so that the figure means something.

    python tutorials/speed_up_timm.py                                             # two models, under a minute
    python tutorials/speed_up_timm.py --models halonet50ts --weights FILE --batch 16 --rounds 11       # yours
"""

import copy
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import halonet
from halonet.analysis.speed.measuring import compare, describe, interleaved_times
from halonet.cli.commands import positive
from halonet.cli.words import Parser, UsageError, exit_status, nearest
from halonet.models.checkpoints import read_state_dict

# ---------------------------------------------------------------------------------------------------------------------
# Step 1. A model of timm.
#
# With weights of yours, or random ones: the numbers that are compared do not care. timm begins residual branches with a
# factor of zero, behind which attention would not show in the output; random weights therefore get another one.


def timm_model(name: str, weights: Path | None) -> nn.Module:
    """The model, ready to answer."""
    if not timm.is_model(name):
        names = [*timm.list_models("*halo*"), *timm.list_models("*bot*")]
        raise UsageError(f"--models: timm has no model {name!r}{nearest(name, names)}")
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name)
    if weights is not None:
        try:
            model.load_state_dict(read_state_dict(weights))
        except RuntimeError as error:
            raise UsageError(f"--weights: {weights} is not of {name}: {str(error).splitlines()[0]}") from error
        return model.eval()
    for parameter in model.parameters():
        if parameter.abs().max() == 0:
            nn.init.uniform_(parameter.data, 0.1, 0.5)
    return model.eval()


# ---------------------------------------------------------------------------------------------------------------------
# Step 2. The one line.
#
# The model is changed in place; a copy is made first, to compare with. Where there is nothing to replace, a warning
# says so; here it ends the lesson.


def faster_copy(model: nn.Module) -> tuple[nn.Module, int]:
    """The same network on our op, and how many layers were replaced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fast, num_replaced = halonet.accelerate(copy.deepcopy(model))
    if num_replaced == 0:
        raise UsageError("--models: no halo or bottleneck attention to replace in this model")
    return fast, num_replaced


# ---------------------------------------------------------------------------------------------------------------------
# Step 3. It is the same model.
#
# Outputs are equal to rounding, so the difference is told as a share of the largest output. Parameters have the same
# names and values: what was saved before loads after, and the other way round.


def check_same(model: nn.Module, fast: nn.Module, images: Tensor) -> float:
    """Largest difference of outputs, as a share of the largest output."""
    with torch.no_grad():
        before, after = model(images), fast(images)
    same = model.state_dict().keys() == fast.state_dict().keys()
    same = same and all(torch.equal(value, fast.state_dict()[name]) for name, value in model.state_dict().items())
    fast.load_state_dict(model.state_dict())
    share = float((before - after).abs().max() / before.abs().max())
    print(f"  outputs differ by at most {float((before - after).abs().max()):.1e}, {share:.1e} of the largest")
    print(f"  state dict: {len(model.state_dict())} tensors, {'the same names and values' if same else 'NOT THE SAME'}")
    return share


# ---------------------------------------------------------------------------------------------------------------------
# Step 4. Time it.
#
# The two run in turns, and a ratio is taken within each round: what else the machine does then weighs on both. Kernels
# are compiled on the first call, before any clock runs. The spread is told, since a median alone tells nothing about
# noise. A training step is forward and backward, without the optimizer, which costs both the same.


def forward(model: nn.Module, images: Tensor) -> None:
    """An answer."""
    with torch.no_grad():
        model.eval()(images)


def training_step(model: nn.Module, images: Tensor) -> None:
    """Forward and backward."""
    model.train().zero_grad(set_to_none=True)
    model(images).square().mean().backward()


MODES: dict[str, Callable[[nn.Module, Tensor], None]] = {"forward": forward, "training step": training_step}


def time_it(model: nn.Module, fast: nn.Module, images: Tensor, rounds: int) -> None:
    """A line for each model and mode."""
    for mode, once in MODES.items():
        calls = {"timm": partial(once, model, images), "halonet": partial(once, fast, images)}
        for name, row in compare(interleaved_times(calls, rounds), "timm").items():
            spread = f"{row['fastest_ms']:.0f} to {row['slowest_ms']:.0f}"
            print(
                f"  {mode:14} {name:8} {row['median_ms']:8.1f} ms ({spread}), {row['times_as_fast']:.2f} times as fast"
            )


def main() -> int:
    """The whole lesson."""
    parser = Parser(prog="speed_up_timm.py", description="timm's models on halonet's op.", allow_abbrev=False)
    models = ["halonet26t", "botnet26t_256"]
    parser.add_argument("--models", nargs="+", default=models, metavar="NAME", help=f"default: {' '.join(models)}")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="of one model: safetensors, or torch.save's")
    parser.add_argument("--batch", type=positive, default=2, help="images (default 2)")
    parser.add_argument("--rounds", type=positive, default=5, help="of timing (default 5)")
    parser.add_argument("--threads", type=positive, help="of the CPU (default: torch's)")
    values = parser.parse_args()
    if values.weights and len(values.models) != 1:
        raise UsageError(f"--weights: expected one of --models, got {len(values.models)}")
    if values.threads:
        torch.set_num_threads(values.threads)
    told = describe(batch=values.batch, rounds=values.rounds)
    print(*(f"{name}: {value}" for name, value in told.items()), sep="\n")
    for name in values.models:
        model = timm_model(name, values.weights)
        fast, num_replaced = faster_copy(model)
        print(f"\n{name}: {num_replaced} layers replaced")
        images = torch.randn(values.batch, *model.default_cfg["input_size"])  # type: ignore[index]
        check_same(model, fast, images)
        time_it(model, fast, images, values.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, prog="speed_up_timm.py"))
