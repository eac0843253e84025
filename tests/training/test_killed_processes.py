"""Signals to real processes: one of two, a whole group, and kills that cannot be heeded; see test_nothing_lost.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.conftest import SMALL, only_run
from tests.training.test_nothing_lost import RUN, assert_same_run, contents, losses

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes(tmp_path: Path) -> None:
    """Both save, rank 0 alone writes, and what goes on equals what was never stopped."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "halonet", "fit"]
    options = [*RUN[1:], "--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.limit_train_batches=24"]

    def finish(*arguments: object) -> None:
        subprocess.run([*command, *map(str, arguments)], env=environment, check=True, timeout=300, capture_output=True)

    finish(*options, "--out", tmp_path / "whole")
    out = tmp_path / "cut"
    with subprocess.Popen(
        [*command, *options, "--out", str(out)], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not [path for path in out.glob("*/*/steps.csv") if losses(path.parent)]:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=120)[1].strip().splitlines()
    assert process.returncode == 143
    assert "nothing is lost, go on with:" in said[-2]
    assert 0 < len(losses(only_run(out))) < 48
    finish("--ckpt_path", "last", "--out", out)
    assert_same_run(only_run(tmp_path / "whole"), only_run(out))


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_loading_processes_too(photos: Path, tmp_path: Path, how: signal.Signals) -> None:
    """As a terminal, `timeout` and SLURM send it: to the whole group."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    options = (*SMALL, "--data.root", photos, "--data.num_workers=2", "--data.batch_size=2", "--trainer.max_epochs=9")
    command = [sys.executable, "-m", "halonet", "fit", *map(str, options), "--out", str(tmp_path / "cut")]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while process.poll() is None and not [
            path for path in tmp_path.glob("cut/*/*/steps.csv") if len(losses(path.parent)) > 3
        ]:
            time.sleep(0.02)
        os.killpg(process.pid, how)
        said = process.communicate(timeout=120)[1].strip().splitlines()
    assert process.returncode == 128 + how, said
    assert "nothing is lost, go on with:" in said[-2]
    last = contents(only_run(tmp_path / "cut") / "checkpoints" / "last.ckpt")
    assert last["global_step"] == len(losses(only_run(tmp_path / "cut")))


@pytest.mark.slow
def test_real_kills(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "kill_test.py"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script, "--kills=3", "--out", tmp_path], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "all weights are the same, bit for bit" in done.stdout
