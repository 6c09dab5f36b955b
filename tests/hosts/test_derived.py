"""Values derived from parameters: none that is out of date, from whatever thread and after whatever failed."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from fastbert_kernels.hosts.derived import Derived


def change(module, value):
    with torch.no_grad():
        module.weight.fill_(value)


def test_no_thread_gets_the_old_value_while_another_derives_the_new_one():
    module, begun, may_end = nn.Linear(1, 1), threading.Event(), threading.Event()
    change(module, 1.0)

    def build(weight):
        if threading.current_thread() is slow:
            begun.set()
            assert may_end.wait(20)
        return weight.item()

    derived = Derived(module, [(module, "weight")], build, [])
    slow = threading.Thread(target=derived.get)
    assert derived.get() == 1.0
    change(module, 2.0)
    slow.start()
    assert begun.wait(20)
    try:
        assert derived.get() == 2.0
    finally:
        may_end.set()
        slow.join()
    assert derived.get() == 2.0


def test_a_value_that_could_not_be_derived_is_tried_again():
    module = nn.Linear(1, 1)
    change(module, 1.0)

    def build(weight):
        if weight.item() > 1:
            raise ValueError("too large")
        return weight.item()

    derived = Derived(module, [(module, "weight")], build, [])
    assert derived.get() == 1.0
    change(module, 2.0)
    for _ in range(2):
        with pytest.raises(ValueError, match="too large"):
            derived.get()
    change(module, 0.5)
    assert derived.get() == 0.5
