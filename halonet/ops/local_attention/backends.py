"""The backends of local attention by name, and the choice among them."""

from __future__ import annotations

from types import ModuleType

from halonet.ops.local_attention import numba_cpu, reference, sdpa, triton_gpu
from halonet.ops.local_attention.call import Call
from halonet.ops.local_attention.compared import sliding_chunk, unfold

# Fastest first: "auto" takes the first that does not refuse. A backend is a module with
# refusal(call) -> None or the reason it cannot take the call, and run(call) -> the output.
# The reference takes every call: what stands behind it, to compare with, runs only where it is named.
BACKENDS: dict[str, ModuleType] = {
    "triton": triton_gpu,
    "numba": numba_cpu,
    "sdpa": sdpa,
    "reference": reference,
    "unfold": unfold,
    "sliding_chunk": sliding_chunk,
}


def choose(name: str, call: Call) -> ModuleType:
    """The backend for a call: the one named, or for "auto" the fastest that takes the call.

    Raises ValueError when the named backend does not exist or cannot take the call: nothing falls back silently.
    """
    if name == "auto":
        return next(module for module in BACKENDS.values() if module.refusal(call) is None)
    module = BACKENDS[name]
    reason = module.refusal(call)
    if reason is not None:
        raise ValueError(f"backend={name!r} cannot take this call: {reason}")
    return module


def explain(name: str, call: Call) -> str:
    """One line a backend: which one would run, why the others would not."""
    lines, chosen = [], None
    for candidate, module in BACKENDS.items():
        reason = module.refusal(call)
        if reason is not None:
            lines.append(f"{candidate}: refused, {reason}")
        elif name not in ("auto", candidate):
            lines.append(f"{candidate}: refused, backend={name!r} was asked for")
        elif chosen is not None:
            lines.append(f"{candidate}: refused, {chosen} comes first for it is faster")
        else:
            chosen = candidate
            lines.append(f"{candidate}: chosen")
    return "\n".join(lines)
