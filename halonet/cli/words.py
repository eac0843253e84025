"""Words of the command line: its errors, in one line each."""

import argparse
import difflib
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

# Packages that the core install does not have, by the extra that brings them.
EXTRAS = {
    **dict.fromkeys(
        ("jsonargparse", "lightning", "matplotlib", "rich", "sklearn", "tensorboard", "torchmetrics", "yaml"), "train"
    ),
    **dict.fromkeys(("datasets", "webdataset"), "data"),
    "pycocotools": "detection",
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
    **dict.fromkeys(("fastapi", "uvicorn"), "explore"),
}


class UsageError(ValueError):
    """A command line that cannot be understood."""


class Parser(argparse.ArgumentParser):
    """argparse, with our one-line errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help tells more)")


def exit_status(run: Callable[[], int], *, prog: str) -> int:
    """What `run` returns; of what it raises, one line on stderr and 2 for a user's error, 130 for Ctrl-C, 143 for a
    training that SIGTERM ended.

    HALONET_TRACEBACK=1 in the environment, or a defect of ours, lets the error through.

    Args:
        run: the program.
        prog: its name, which the line begins with.
    """
    try:
        return run()
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader, as in `halonet models | head`, has seen enough; keep the interpreter from flushing into
        # the pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        # `halonet.training.interruption.Interrupted`, which needs Lightning, tells its own status and how to go on.
        status, message = getattr(error, "status", None), one_line(error)
        if isinstance(status, int):
            print(f"\n{error}", file=sys.stderr)
            return status
        if message is None or os.environ.get("HALONET_TRACEBACK"):
            raise
        print(f"{prog}: error: {message}", file=sys.stderr)
        return 2


def one_line(error: Exception) -> str | None:
    """The user's errors as one line; None for what can only be a defect of ours."""
    text = str(error)
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text:
        where = getattr(error, "filename", None)
        return f"no space left on the disk{f' to write {where}' if where else ''}"
    package = (getattr(error, "name", None) or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and package in EXTRAS:
        return f"this command needs {package}, which is not installed: pip install 'halonet[{EXTRAS[package]}]'"
    if not isinstance(error, ValueError | OSError):
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Caught ") and "DataLoader worker" in lines[0]:
        # A loading process hands its traceback over as text; the last line says what was wrong.
        return lines[-1].split(": ", 1)[-1]
    return " ".join(lines)


def nearest(name: str, names: Sequence[str] | Mapping[str, Any], *, cutoff: float = 0.5) -> str:
    """The end of an error message about an unknown name: those that look like it."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=cutoff)
    return f", did you mean {' or '.join(close)}?" if close else ""
