"""Images that cannot be read and are passed over: noted by whichever process meets them, counted over all."""

import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from halonet.data.images import UnreadableImageError

T = TypeVar("T")


class TooManyUnreadableError(ValueError):
    """More images were unreadable than a run may pass over; one line with their number and the first."""


class UnreadableLog:
    """What one part of a set lost, in a file that this process and its loading processes append to.

    total: images of the part that this process reads in an epoch. most: share of them that may be lost.
    """

    def __init__(self, *, part: str, total: int, most: float) -> None:
        self.part = part
        self.total = total
        self.most = most
        # Loading processes are forked or spawned and may be gone before anyone asks: a file outlives them all.
        self._file = Path(tempfile.gettempdir(), f"halonet-unreadable-{uuid.uuid4().hex}.txt")

    def note(self, error: UnreadableImageError) -> None:
        """Count an image, once however often it is met. Raises TooManyUnreadableError."""
        line = " ".join(str(error).split())
        if line in self.lines():
            return
        handle = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(handle, f"{line}\n".encode())  # one call: lines of several processes do not mix
        finally:
            os.close(handle)
        lines = self.lines()
        if len(lines) > self.most * self.total:
            raise TooManyUnreadableError(
                f"{len(lines)} of {self.total} {self.part} images cannot be read, more than the share of "
                f"{self.most:g} that data.max_error_fraction allows; first: {lines[0]}"
            )

    def lines(self) -> list[str]:
        """What was said of each image, the first first."""
        try:
            text = self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return list(dict.fromkeys(text.splitlines()))

    def close(self) -> None:
        """Remove the file."""
        self._file.unlink(missing_ok=True)


def load_readable(load: Callable[[int], T], index: int, *, total: int, unreadable: UnreadableLog | None) -> T:
    """`load` of image `index` of `total`, counted on from the first again, or of the next one that can be read.

    unreadable: notes those that cannot; None: the first such raises. Raises UnreadableImageError, as said or where none
    can be read.
    """
    for further in range(total):
        try:
            return load((index + further) % total)
        except UnreadableImageError as error:
            if unreadable is None:
                raise
            unreadable.note(error)
    raise UnreadableImageError(f"none of {total} images can be read")
