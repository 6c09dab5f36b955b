"""Fixtures that all tests share; helpers to build inputs are in helpers/."""

from __future__ import annotations

import gc
import os
import signal

import pytest
import torch


def pytest_configure():
    # No test depends on what a busy machine measures, or is told that a tiny model is faster in float32.
    os.environ.setdefault("FASTBERT_PRODUCT_RATES", "float32=80 bfloat16=80 int8=80")
    # What a shell runs in the background ignores Ctrl-C, and the tests that interrupt would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def imports_are_no_garbage():
    """Half a million objects of torch and transformers are left out of what `gc.collect` searches.

    accelerate calls it behind every training, which took longer there than the training of a tiny model.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()  # extension modules complain of what is still there when Python ends


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(20)


@pytest.fixture
def poisoned_memory():
    """Every uninitialised tensor is full of NaN (or the largest integer), so that a value nobody wrote shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not {"long", "proof"} & item.keywords.keys())
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU, and torch sees none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
