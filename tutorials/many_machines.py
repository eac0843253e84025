"""Train on several devices and machines, and go on after a kill.

What you learn: torchrun starts the processes and `halonet fit` finds out how many there are; a step has as many images
on any number of devices, and so the same learning rate; what a killed run leaves and how it goes on; that two processes
train what one trains.

    python tutorials/many_machines.py                                   # two processes on this machine, over gloo
    python tutorials/many_machines.py --show torchrun --nodes 4 --devices 8 -- --data.root IMAGENET
    python tutorials/many_machines.py --show slurm --nodes 4 --devices 8 -- --data.root IMAGENET > job.sh

Behind -- stand options of `halonet fit`, which are trained with here, or shown in the commands.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from safetensors.torch import load_file

from halonet.cli import fit_settings
from halonet.cli.commands import positive
from halonet.cli.words import Parser, exit_status
from halonet.training import run
from halonet.training.batches import plan_batches

# ---------------------------------------------------------------------------------------------------------------------
# Step 1. Batches and the learning rate.
#
# optim.global_batch is the number of images of one optimizer step on all devices together, which optim.lr is meant for;
# data.batch_size is the most that a device takes at once. From both follows what a device does. Where it cannot be met
# exactly, the learning rate follows linearly.


def show_batches(global_batch: int, largest: int, lr: float) -> None:
    """A line for each number of devices."""
    print(f"a step of {global_batch} images, at most {largest} on a device at once, learning rate {lr:g}:")
    print(f"{'devices':>8} {'a device takes':>15} {'passes':>7} {'a step has':>11} {'learning rate':>14}")
    for devices in (1, 2, 3, 8, 128):
        plan = plan_batches(global_batch=global_batch, devices=devices, largest=largest)
        rate = lr * plan.lr_scale
        print(f"{devices:8d} {plan.device_batch:15d} {plan.accumulation:7d} {plan.global_batch:11d} {rate:14.4g}")


# ---------------------------------------------------------------------------------------------------------------------
# Step 2. The commands.
#
# One machine: torchrun --standalone. Several: the same command on each, which differs in --node_rank alone; the first
# machine's address and a free port on it are where they meet. Under SLURM srun starts a process a device, and a job
# that is put back into the queue goes on by itself. All machines write into one folder, on a disk that they share.


def torchrun_lines(nodes: int, devices: int, words: Sequence[str]) -> str:
    """What is typed on each machine."""
    fit = f"-m halonet fit {shlex.join(words)}".rstrip()
    if nodes == 1:
        return f"torchrun --standalone --nproc_per_node {devices} {fit}"
    return "\n".join(
        f"torchrun --nnodes {nodes} --node_rank {rank} --master_addr $HOST --master_port 29500 "
        f"--nproc_per_node {devices} {fit}"
        for rank in range(nodes)
    )


def slurm_script(nodes: int, devices: int, words: Sequence[str]) -> str:
    """A job for sbatch."""
    return f"""#!/bin/bash
#SBATCH --job-name=halonet
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={devices}
#SBATCH --gpus-per-node={devices}
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
export OMP_NUM_THREADS=1
out=runs/$SLURM_JOB_NAME
options=({shlex.join(words)})
# A job that comes back goes on from its newest checkpoint.
if compgen -G "$out/*/*/checkpoints/last.ckpt" > /dev/null; then options=(--ckpt_path last); fi
srun python -m halonet fit --out "$out" "${{options[@]}}\""""


# ---------------------------------------------------------------------------------------------------------------------
# Step 3. Really start them.
#
# torchrun comes with torch (python -m torch.distributed.run). On CPUs the processes are joined by gloo, on GPUs by
# nccl; nobody has to say so. A process must not take all cores: OMP_NUM_THREADS=1.
#
# trainer.sync_batchnorm takes the statistics of batch norms over all devices. Without it each device norms by its own
# images, which is usual where a device has 32 or more, but then several devices train something a little different.


# How lines of `halonet fit` begin that are shown here; all of them are in the log.
SAID = ("a step:", "32-true", "going on", "epoch", "test accuracy")


def start(processes: int, words: Sequence[str], *, log: Path) -> "subprocess.Popen[str]":
    """`halonet fit` in so many processes; what they say goes to `log`."""
    options = ["--standalone", "--nproc_per_node", str(processes), "-m", "halonet", "fit", *words]
    print(f"\n$ torchrun {shlex.join(options)}", flush=True)
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    with log.open("w") as file:
        command = [sys.executable, "-m", "torch.distributed.run", *options]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: "subprocess.Popen[str]", *, log: Path, out: Path) -> Path:
    """Wait for the end, and tell what the first process said; the run's folder."""
    if process.wait():
        print(log.read_text(), file=sys.stderr)
        raise ValueError(f"training ended with status {process.returncode}, see above")
    print("\n".join(line for line in log.read_text().splitlines() if line.startswith(SAID)))
    (folder,) = out.glob("*/*")
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# Step 4. Kill it.
#
# kill -9 of one process, as when a machine dies: nobody can save anything then. torchrun ends the others. What is left
# is the newest checkpoint, here one every two steps; `--ckpt_path last` goes on from it, in the middle of an epoch, in
# the same folder and with the settings that lie there.


def kill_one(launcher: "subprocess.Popen[str]", out: Path, *, log: Path) -> None:
    """As soon as there is a checkpoint, end the second process without a warning."""
    while not list(out.glob("*/*/checkpoints/last.ckpt")):
        if launcher.poll() is not None:
            print(log.read_text(), file=sys.stderr)
            raise ValueError("training ended before it wrote a checkpoint; give it more --steps")
        time.sleep(0.05)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    victim = next(pid for pid in map(int, children) if rank_of(pid) == "1")
    os.kill(victim, signal.SIGKILL)
    launcher.wait()
    (folder,) = out.glob("*/*")
    steps = len((folder / "steps.csv").read_text().splitlines()) - 1
    print(f"killed the process of rank 1 after step {steps} or so; torchrun ended with status {launcher.returncode}")


def rank_of(process: int) -> str:
    """Its RANK, which torchrun gave it."""
    variables = Path(f"/proc/{process}/environ").read_text().split("\0")
    return dict(one.partition("=")[::2] for one in variables).get("RANK", "")


# ---------------------------------------------------------------------------------------------------------------------
# Step 5. Is it the same training?
#
# The images of a step are the same on any number of devices, and so are their augmentations. So the weights must agree
# to rounding with those of one process, killed or not, and the test images, half of them judged by each process, must
# be counted once each.
#
# One process has the 64 images in one pass: batch norm takes the statistics of a pass, so two passes of 32 would be
# another training.


def train_alone(words: Sequence[str]) -> Path:
    """The same in this process; the run's folder."""
    words = [*words, "--trainer.devices", "1"]
    print(f"\n$ halonet fit {shlex.join(words)}", flush=True)
    folder = run.fit(fit_settings(words))
    assert folder is not None  # as in every first process
    return folder


def compare(many: Path, one: Path) -> float:
    """Largest difference of the weights; tells it, and what each run came to."""
    for name, folder in (("many", many), ("one", one)):
        effective = yaml.safe_load((folder / "effective.yaml").read_text())
        test = json.loads((folder / "metrics.json").read_text())
        step = f"{effective['devices']} x {effective['device_batch']} x {effective['accumulate_grad_batches']}"
        print(
            f"{name:5} a step {step} = {effective['global_batch']} images, {effective['total_steps']} steps, "
            f"test accuracy {test['test']['accuracy']:.4f} of {test['images']['test']} images"
        )
    states = [load_file(folder / "weights.safetensors") for folder in (many, one)]
    apart = max(float((states[0][name] - states[1][name]).abs().max()) for name in states[0])
    print(f"largest difference of weights: {apart:.1e}")
    return apart


def main() -> int:
    """The whole lesson, or the commands alone."""
    parser = Parser(prog="many_machines.py", description="Several devices and machines.", allow_abbrev=False)
    parser.add_argument("--show", choices=("torchrun", "slurm"), help="print the commands, and start nothing")
    parser.add_argument("--nodes", type=positive, default=1, help="machines, with --show (default 1)")
    parser.add_argument("--devices", type=positive, default=2, help="a machine has; processes here (default 2)")
    parser.add_argument("--steps", type=positive, default=20, help="of training (default 20)")
    parser.add_argument("--no-kill", dest="kill", action="store_false", help="leave step 4 out")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of weights that agree (default 1e-4)")
    parser.add_argument("--out", type=Path, default=Path("many"), metavar="FOLDER", help="default: many")
    parser.add_argument("fit", nargs="*", metavar="-- OPTION", help="of halonet fit")
    values = parser.parse_args()
    if values.show:
        show = {"torchrun": torchrun_lines, "slurm": slurm_script}[values.show]
        print(show(values.nodes, values.devices, values.fit))
        return 0
    if values.devices < 2:
        raise ValueError(f"--devices: expected at least 2 to train on, got {values.devices}")
    if values.out.exists() and any(values.out.iterdir()):
        raise ValueError(f"--out: expected none or an empty folder, found files in {values.out}")
    show_batches(64, 32, 0.1)
    print(f"\non three machines:\n{torchrun_lines(3, 8, values.fit)}")

    words = shlex.split("--optim.global_batch 64 --data.batch_size 64 --optim.lr 0.1 --optim.warmup_epochs 0.25")
    words += shlex.split("--trainer.accelerator cpu --trainer.sync_batchnorm true --trainer.save_every_steps 2")
    words += ["--trainer.max_steps", str(values.steps), *values.fit]
    out, log = values.out / "many", values.out / "many.log"
    out.mkdir(parents=True)
    process = start(values.devices, ["--out", str(out), *words], log=log)
    if values.kill:
        kill_one(process, out, log=log)
        process = start(values.devices, ["--ckpt_path", "last", "--out", str(out)], log=log)
    many = finish(process, log=log, out=out)
    one = train_alone(["--out", str(values.out / "one"), *words])
    print()
    apart = compare(many, one)
    if apart > values.tolerance:
        print(f"which is more than {values.tolerance:g}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(exit_status(main, prog="many_machines.py"))
