"""The Triton kernels compiled for GPUs that are not here: no register spills, and shared memory suffices.

In a process of its own: in this one the kernels are interpreted (tests/conftest.py).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = 3  # processes that share a target's shapes


def compiled(tmp_path, *arguments):
    out = tmp_path / "kernels.json"
    command = [sys.executable, "-m", "benchmarks.triton_compile", "--json", str(out), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path / "cache")
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert out.exists(), result.stderr
    return result, json.loads(out.read_text())


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("target", ["80", "90", pytest.param("100", marks=pytest.mark.slow)])  # the newest: 70 s more
def test_every_kernel_of_the_families_fits(target, part, tmp_path):
    result, kernels = compiled(tmp_path, "--targets", target, "--part", str(part), str(PARTS))
    assert {kernel["kernel"] for kernel in kernels} >= {"forward", "query_gradient", "key_gradient"}
    assert [kernel for kernel in kernels if kernel["spills"]] == []
    assert result.returncode == 0, result.stdout  # which also judges the shared memory


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("target", ["80", "90", "100"])
def test_every_kernel_of_every_form_compiles(target, dtype, tmp_path):
    """Strides too; numbers of 32 bits among them. A kernel that fails to compile ends the process."""
    _, kernels = compiled(tmp_path, "--targets", target, "--all", "--strides", "1", "2", "--dtypes", dtype)
    assert len(kernels) > 200
