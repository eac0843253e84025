"""What every test relies on: random numbers that do not depend on the order of tests, and Triton fit for a CPU."""

import importlib
import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton decides when it is imported whether kernels are interpreted. The variable is taken back, so that none but
    # the tests of those kernels, which set it again, find a backend that takes tensors on a CPU.
    os.environ["TRITON_INTERPRET"] = "1"
    importlib.import_module("halonet.ops.local_attention.triton_gpu.launch")
    del os.environ["TRITON_INTERPRET"]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
