"""One thread that does what it is given, one thing after the other."""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
_at_work: set[Worker] = set()


class Worker:
    """A thread of its own, so that torch keeps one pool of threads and two requests never meet in a model.

    It is a daemon: Ctrl-C does not wait for a detector that is at work.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, task: Callable[[], Result]) -> Future[Result]:
        """Do `task` when everything before it is done; the future tells its result, or what it raised."""
        future: Future[Result] = Future()
        self._tasks.put((future, task))
        return future

    def _run(self) -> None:
        while True:
            future, task = self._tasks.get()
            if not future.set_running_or_notify_cancel():
                continue
            _at_work.add(self)
            try:
                future.set_result(task())
            except BaseException as error:
                future.set_exception(error)
            finally:
                _at_work.discard(self)
            del future, task  # a thread that waits keeps nothing alive


def leave() -> None:
    """End the process at once if a worker is still at work: Python cannot be taken down below a thread that is within
    torch, which would abort."""
    if _at_work:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
