"""No test of the hosts depends on what another test left behind."""

from __future__ import annotations

import pytest
import torch

from fastbert_kernels.hosts.registered import REGISTERED


@pytest.fixture(autouse=True)
def no_registrations_left():
    yield
    REGISTERED.clear()


@pytest.fixture(autouse=True)
def distributions_check_their_arguments():
    """Unpatched models refuse NaN through torch.distributions, whose checks torch.compile turns off for a process."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(True)
    yield
    torch.distributions.Distribution.set_default_validate_args(before)
