"""Runs the trainings of a study, each in a process of its own, and goes on with what was cut."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from halonet.files import replacing
from halonet.studies.settings import Job
from halonet.training.files import LAST, METRICS

SETTINGS = "settings.yaml"
LOCK = ".lock"
# How often a training that another process has under way is looked at again, in seconds.
PATIENCE = 2.0
Report = Callable[[Job, str], None]
Train = Callable[[Job, int], None]


class Failed(Exception):
    """A training ended without a result; the text says why."""


def finished_folder(job: Job) -> Path | None:
    """The newest run of a job that has its figures, if there is one."""
    found = sorted(job.folder.glob(f"*/{METRICS}"), key=lambda path: path.stat().st_mtime_ns)
    return found[-1].parent if found else None


def checkpoint_of(job: Job) -> Path | None:
    """The newest checkpoint of a job that was cut."""
    found = list(job.folder.glob(f"*/checkpoints/{LAST}"))
    return max(found, key=lambda path: path.stat().st_mtime_ns) if found else None


def run_jobs(jobs: Sequence[Job], *, workers: int, report: Report, train: Train | None = None) -> dict[Job, str]:
    """Train what is not trained yet, `workers` at a time; a job that fails leaves the others alone.

    report: called with a job and what became of it, from one thread at a time. train: what trains a job in a place
    counted from 0, raising Failed; the default starts `halonet fit` in a process. Returns why jobs failed. Ctrl-C ends
    the trainings under way, which write what they have, and is raised.
    """
    places: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(workers):
        places.put(place)
    failures: dict[Job, str] = {}
    speaking = threading.Lock()
    processes = Processes(workers)
    train = train or processes.train

    def say(job: Job, words: str) -> None:
        with speaking:
            report(job, words)

    def one(job: Job) -> None:
        place = places.get()
        try:
            with only_one(job, stopping=processes.stopping, say=say):
                if finished_folder(job) is not None:
                    said = "was finished"
                else:
                    train(job, place)
                    said = "finished"
        except Failed as failure:
            failures[job], said = str(failure), f"failed: {failure}"
        finally:
            places.put(place)
        say(job, said)

    with _terminated_as_interrupted(), ThreadPoolExecutor(workers) as pool:
        futures: list[Future[None]] = [pool.submit(one, job) for job in jobs]
        try:
            while wait(futures, timeout=0.5, return_when=FIRST_EXCEPTION).not_done:
                _raise_first(futures)
            _raise_first(futures)
        except BaseException:
            for future in futures:
                future.cancel()
            processes.stop()
            raise
    return failures


def _raise_first(futures: Sequence[Future[None]]) -> None:
    for future in futures:
        if future.done() and not future.cancelled():
            future.result()


@contextmanager
def only_one(job: Job, *, stopping: threading.Event, say: Report) -> Iterator[None]:
    """Holds the job's folder against other processes, waiting for one that has it, which `say` is told.

    The training inherits the lock: a study that was killed leaves it with a training that is still under way, and the
    next study waits for that one instead of starting a second in its place.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows has no such locks
        yield
        return
    with open(job.folder / LOCK, "w") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    say(job, "is under way in another process; waiting for it")
                told = True
                if stopping.wait(PATIENCE):
                    raise Failed("stopped while another process had it under way") from None
        _LOCKS[job.folder] = lock
        try:
            yield
        finally:
            del _LOCKS[job.folder]


_LOCKS: dict[Path, IO[str]] = {}


class Processes:
    """`halonet fit` as processes. workers: how many there are at a time, among which CPU threads and GPUs are dealt."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.stopping = threading.Event()
        self._running: set[subprocess.Popen[bytes]] = set()

    def train(self, job: Job, place: int) -> None:
        """Train a job from its last checkpoint or from the start. Raises Failed."""
        if self.stopping.is_set():
            raise Failed("stopped")
        with open(job.log, "ab") as log:
            # A group of its own: Ctrl-C reaches a training once, from `stop`, and not from the terminal as well.
            process = subprocess.Popen(
                command(job),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment(job, place, workers=self.workers)},
                pass_fds=[_LOCKS[job.folder].fileno()] if job.folder in _LOCKS else [],
                start_new_session=True,
            )
            self._running.add(process)
            try:
                status = process.wait()
            finally:
                self._running.discard(process)
        if status or finished_folder(job) is None:
            raise Failed(last_words(job, status))

    def stop(self, *, patience: float = 30.0) -> None:
        """Interrupt what runs, as Ctrl-C would, and kill what has not ended after `patience` seconds."""
        self.stopping.set()
        started = time.monotonic()
        self._signal(signal.SIGINT)
        while any(process.poll() is None for process in list(self._running)):
            if time.monotonic() - started > patience:
                self._signal(signal.SIGKILL)
                return
            time.sleep(0.1)

    def _signal(self, number: signal.Signals) -> None:
        """To each training with the processes it started."""
        for process in list(self._running):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)


def command(job: Job) -> list[str]:
    """The command line that trains a job; its settings are written beside."""
    import yaml

    path = job.folder / SETTINGS
    with replacing(path) as beside:
        beside.write_text(yaml.safe_dump(job.config.to_dict(), sort_keys=False), encoding="utf-8")
    arguments = [sys.executable, "-m", "halonet", "fit", "--config", str(path)]
    checkpoint = checkpoint_of(job)
    return arguments if checkpoint is None else [*arguments, "--ckpt_path", str(checkpoint)]


def environment(job: Job, place: int, *, workers: int) -> dict[str, str]:
    """What a training's process is given of the machine: its share of the CPU threads, and where several trainings of
    one device each run beside each other, a GPU of its own."""
    threads = job.config.trainer.threads or max(1, (os.cpu_count() or 1) // workers)
    given = {} if "OMP_NUM_THREADS" in os.environ and workers == 1 else {"OMP_NUM_THREADS": str(threads)}
    if workers > 1 and job.config.trainer.devices in ("auto", 1, "1") and job.config.trainer.accelerator != "cpu":
        import torch

        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        if len(names) > 1:
            given["CUDA_VISIBLE_DEVICES"] = names[place % len(names)]
    return given


def last_words(job: Job, status: int) -> str:
    """Why a process failed, in a line: the last that it said, or how it ended."""
    lines = [line.strip() for line in job.log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = next((line for line in reversed(lines) if line), "")
    if status < 0:
        said = f"ended by {signal.Signals(-status).name}"
    return f"{said.removeprefix('halonet: error: ')} (see {job.log})"


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A request to end (SIGTERM) is treated as Ctrl-C, so that no training is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
