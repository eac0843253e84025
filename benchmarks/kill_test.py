"""Whether a run that is killed again and again loses anything.

    python benchmarks/kill_test.py [--kills 10] [--seed 0] [--out FOLDER]

A small fit of the digits runs whole. The same fit is then ended by SIGKILL at random moments, most of them in its
training, each time gone on with by --ckpt_path last, and after so many kills runs to its end. A checkpoint is written
every step, every second or every third, so that kills fall into writing too. At the end the loss of every step, the
history and every weight must be the same, bit for bit; the exit status is 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from halonet.training.files import is_whole, kept_checkpoints
from halonet.training.steps import read_steps
from halonet.training.throughput import FIGURES

ROOT = Path(__file__).parents[1]
SETTINGS = (
    *("--trainer.accelerator", "cpu", "--trainer.progress", "lines", "--trainer.max_epochs", "3"),
    *("--data.batch_size", "16", "--trainer.limit_train_batches", "40", "--trainer.limit_val_batches", "4"),
    *("--trainer.limit_test_batches", "4", "--model.drop_rate", "0.1", "--model.drop_path_rate", "0.1"),
    *("--data.mixup", "0.2", "--data.cutmix", "1.0", "--trainer.keep_last", "3"),
)


def start(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """`halonet fit ARGUMENTS` in a process group of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "halonet", "fit", *arguments]
    with log.open("ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)


def finish(*arguments: str, log: Path) -> float:
    """Run to the end and return the seconds it took."""
    begun = time.monotonic()
    if start(*arguments, log=log).wait() != 0:
        raise SystemExit(f"halonet fit {' '.join(arguments)} failed:\n{log.read_text()[-3000:]}")
    return time.monotonic() - begun


def run_folder(out: Path) -> Path | None:
    return next((path.parent for path in out.glob("*/*/config.yaml")), None)


def reached(folder: Path | None) -> int:
    """The last step in steps.csv."""
    steps = read_steps(folder / "steps.csv") if folder and (folder / "steps.csv").is_file() else []
    return int(steps[-1]["step"]) if steps else 0


def kept(folder: Path | None) -> str:
    """What a run goes on from: its newest whole checkpoint."""
    if folder is None:
        return "nothing, the run had no folder yet"
    found = kept_checkpoints(folder / "checkpoints")
    whole = next((path for path in found if is_whole(path)), None)
    name = "no checkpoint yet" if whole is None else whole.name
    step = 0 if whole is None else torch.load(whole, weights_only=True)["global_step"]
    torn = " (another half written)" if list(folder.glob("checkpoints/.*")) else ""
    return f"step {step}, {name}{torn}"


def wait_for_step(process: subprocess.Popen[bytes], out: Path, *, step: int, since: float) -> None:
    """Wait until the process has written a line to steps.csv, and that of `step`, or is over."""
    while process.poll() is None:
        folder = run_folder(out)
        steps = folder / "steps.csv" if folder else out
        if folder and steps.is_file() and steps.stat().st_mtime > since and reached(folder) >= max(step, 1):
            return
        time.sleep(0.01)


def kill_and_go_on(out: Path, *, kills: int, whole: dict[str, float], draws: random.Random, log: Path) -> Path:
    """The folder of a run that was killed so often; whole: its steps, and its seconds with and without training."""
    total = int(whole["steps"])
    # Spread over the run; the last one falls into what follows the training.
    aims = [*sorted(draws.randint(0, total) for _ in range(kills - 1)), total]
    for number, aim in enumerate(aims, 1):
        every = str(draws.randint(1, 3))
        began = ("--ckpt_path", "last", "--out", str(out)) if run_folder(out) else ("--out", str(out), *SETTINGS)
        since = time.time()
        process = start(*began, "--trainer.save_every_steps", every, log=log)
        if draws.random() < 0.2:  # while it starts, which is most of so short a run
            moment = draws.uniform(0, whole["seconds"] - whole["training"])
        else:
            wait_for_step(process, out, step=aim, since=since)
            moment = draws.uniform(0, 2.0 if aim == total else 3 * whole["training"] / total)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        folder = run_folder(out)
        what = "was over" if process.returncode == 0 else "killed"
        print(f"{number:2d}: {what} {time.time() - since:5.2f} s after its start, a checkpoint every {every} steps, at "
              f"step {reached(folder):3d}; goes on from {kept(folder)}", flush=True)  # fmt: skip
    finish("--out", str(out), *(("--ckpt_path", "last") if run_folder(out) else SETTINGS), log=log)
    folder = run_folder(out)
    assert folder is not None
    return folder


def differences(whole: Path, cut: Path) -> list[str]:
    """What is not the same in two runs, bit for bit."""
    wrong = []
    rows = [[(row["step"], row["epoch"], row["loss"], row["lr"]) for row in read_steps(folder / "steps.csv")]
            for folder in (whole, cut)]  # fmt: skip
    if rows[0] != rows[1]:
        first = next((pair for pair in zip(*rows, strict=False) if pair[0] != pair[1]), "their numbers")
        wrong.append(f"steps.csv: {first}")
    weights = [load_file(folder / "weights.safetensors") for folder in (whole, cut)]
    wrong += [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])]
    histories = [untimed_history(folder) for folder in (whole, cut)]
    return wrong + (["the history in metrics.json"] if histories[0] != histories[1] else [])


def untimed_history(folder: Path) -> list[dict[str, float]]:
    """The history of a run without what a clock gives."""
    rows = json.loads((folder / "metrics.json").read_text())["history"]
    return [{name: value for name, value in row.items() if name not in {"seconds", *FIGURES}} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="how many (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default 0)")
    parser.add_argument("--out", type=Path, help="where runs go (default: a folder that is removed)")
    options = parser.parse_args()
    print(f"{platform.machine()}, python {platform.python_version()}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        log = out / "log.txt"
        seconds = finish("--out", str(out / "whole"), *SETTINGS, log=log)
        whole = run_folder(out / "whole")
        assert whole is not None
        training = json.loads((whole / "metrics.json").read_text())["training_seconds"]
        steps = reached(whole)
        print(f"whole: {steps} steps, {seconds:.1f} s, {training} s of it training", flush=True)
        figures = {"steps": steps, "seconds": seconds, "training": training}
        draws = random.Random(options.seed)
        cut = kill_and_go_on(out / "cut", kills=options.kills, whole=figures, draws=draws, log=log)
        wrong = differences(whole, cut)
        if wrong:
            raise SystemExit("not the same: " + ", ".join(wrong[:5]))
        print(f"{options.kills} kills; {steps} losses, the history and all weights are the same, bit for bit")


if __name__ == "__main__":
    main()
