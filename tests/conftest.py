"""What every test relies on: random numbers that do not depend on the order in which the tests run."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
