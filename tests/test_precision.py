"""The precision of a patched model: a word where it is slower here than float32, and the choice of dtype="auto"."""

from __future__ import annotations

import copy
import re
import threading
import warnings
from types import SimpleNamespace

import pytest
import torch

import fastbert_kernels
from fastbert_kernels import precision, product_rates
from fastbert_kernels.engine import compiled
from fastbert_kernels.engine.dtypes import PRODUCTS, MixedInt8
from fastbert_kernels.engine.packed import Results
from fastbert_kernels.measured_once import MeasuredOnce
from fastbert_kernels.ops.packing import product_operand
from helpers.models import padded_batch, spread_model

if fastbert_kernels.backends._cpu_unavailable() is not None:
    pytest.skip("the kernels of the CPU are not built", allow_module_level=True)


@pytest.fixture
def rates(monkeypatch):
    """A function that gives the rates in place of a measurement."""
    precision._warn_of_slower.cache_clear()

    def give(float32, bfloat16, int8):
        monkeypatch.setenv(product_rates.VARIABLE, f"float32={float32} bfloat16={bfloat16} int8={int8}")

    return give


def half_model():
    return spread_model().half()


def info_of(dtype, **options):
    return fastbert_kernels.patch_info(fastbert_kernels.patch(spread_model(), dtype=dtype, **options))


@pytest.mark.parametrize(("dtype", "rate"), [(torch.bfloat16, "70"), (torch.int8, "60")])
def test_a_slower_precision_is_told_once(rates, dtype, rate):
    rates(80, 70, 60)
    with pytest.warns(RuntimeWarning, match=f"{rate} GFLOP/s in its products, and in float32 80.*dtype='auto'"):
        fastbert_kernels.patch(spread_model(), dtype=dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastbert_kernels.patch(spread_model(), dtype=dtype)


def test_weights_in_a_slower_precision_are_told_of_too(rates):
    rates(80, 70, 60)
    with pytest.warns(RuntimeWarning, match="torch.bfloat16 is slower"):
        fastbert_kernels.patch(spread_model().bfloat16())


def test_nothing_is_said_of_float32_or_of_noise(rates):
    rates(80, 78, 79)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype in (None, torch.float32, torch.bfloat16, torch.int8):
            fastbert_kernels.patch(spread_model(), dtype=dtype)


@pytest.mark.parametrize(
    ("dtype", "model"),
    [(torch.float16, spread_model), (torch.bfloat16, lambda: spread_model(hidden_act="gelu_new")), (None, half_model)],
    ids=["float16", "another activation", "weights"],
)
def test_layers_of_pytorch_in_a_slower_precision_are_told_once(monkeypatch, dtype, model):
    precision._warn_of_slow_library.cache_clear()
    monkeypatch.setattr(precision, "library_slowdown", lambda dtype, width, inner: 3.25)
    with pytest.warns(RuntimeWarning, match=r"slower here than torch.float32.*3.2 times as long") as told:
        fastbert_kernels.patch(model(), dtype=dtype)
    assert [warning.filename for warning in told] == [__file__]  # the caller's line
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastbert_kernels.patch(model(), dtype=dtype)


def test_auto_tells_of_layers_of_pytorch_in_a_slower_precision(monkeypatch):
    precision._warn_of_slow_library.cache_clear()
    monkeypatch.setattr(precision, "library_slowdown", lambda dtype, width, inner: 3.25)
    with pytest.warns(RuntimeWarning, match="torch.float16 is slower here"):
        fastbert_kernels.patch(spread_model(hidden_act="gelu_new").half(), dtype="auto")


@pytest.mark.parametrize(("model", "slowdown"), [(half_model, 1.4), (lambda: spread_model().double(), 9.0)])
def test_nothing_is_said_of_layers_of_pytorch_that_are_not_clearly_slower(monkeypatch, model, slowdown):
    """Nor of float64, which nobody takes for its speed."""
    monkeypatch.setattr(precision, "library_slowdown", lambda dtype, width, inner: slowdown)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastbert_kernels.patch(model())


def test_the_library_is_measured_on_the_cpu_whatever_surrounds_the_call(monkeypatch):
    monkeypatch.delenv(product_rates.VARIABLE)
    monkeypatch.setattr(product_rates, "_measured_library", MeasuredOnce())
    seen = []

    def linear(rows, weight):
        seen.append((rows.device.type, rows.dtype, torch.is_autocast_enabled("cpu")))

    monkeypatch.setattr(product_rates.F, "linear", linear)
    with torch.device("meta"), torch.autocast("cpu"):
        assert product_rates.library_slowdown(torch.float16, 64, 256) > 0
    assert set(seen) == {("cpu", torch.float16, False), ("cpu", torch.float32, False)}


def test_nothing_is_measured_where_the_variable_says_the_rates(monkeypatch):
    monkeypatch.setenv(product_rates.VARIABLE, "float32=80 bfloat16=40 int8=40")
    monkeypatch.setattr(product_rates, "_measure_library", None)
    assert product_rates.library_slowdown(torch.float16, 64, 256) == 1


def test_layers_of_an_odd_size_are_not_multiplied_in_pairs(monkeypatch):
    """All layers have one operand, whatever the size of the first."""
    monkeypatch.setattr(compiled, "product_operand", lambda dtype, depth: "bfloat16" if depth % 2 == 0 else "float32")
    monkeypatch.setenv(product_rates.VARIABLE, "float32=80 bfloat16=80 int8=80")
    monkeypatch.setattr(product_rates, "product_operand", compiled.product_operand)
    even, odd = (SimpleNamespace(intermediate_weight=torch.empty(inner, 8)) for inner in (16, 15))
    assert compiled._operand([even, even], torch.bfloat16) == "bfloat16"
    assert compiled._operand([even, odd], torch.bfloat16) == "float32"


def test_auto_takes_the_fastest_that_agrees(rates, monkeypatch):
    monkeypatch.setattr(precision, "TOLERANCE", 1.0)
    rates(80, 100, 120)
    found = info_of("auto", probe=probe_of_one_text())
    assert found["dtype"] == "int8" and found["automatic"]
    operand = found["rates"].pop("bfloat16_operand")
    assert found["rates"] == {"float32": 80, "bfloat16": 100, "int8": 120}
    assert operand == ("bfloat16" if product_operand(torch.bfloat16, 64) == "bfloat16" else "float32")
    assert ("bfloat16 100 (multiplied in float32)" in found["reason"]) == (operand == "float32")
    rates(80, 120, 100)
    found = info_of("auto", probe=probe_of_one_text())
    assert found["dtype"] == ("bfloat16" if operand == "bfloat16" else "int8")  # multiplied in float32 it gains nothing
    rates(80, 83, 84)
    found = info_of("auto", probe=probe_of_one_text())
    assert found["dtype"] == "float32" and "int8 is not faster" in found["reason"]


def test_auto_leaves_out_what_does_not_agree(rates, monkeypatch):
    monkeypatch.setattr(precision, "TOLERANCE", 0.0)  # no rounding is as little as that
    rates(80, 100, 120)
    found = info_of("auto")
    assert found["dtype"] == "float32"
    assert "int8 does not agree" in found["reason"] and "bfloat16 does not agree" in found["reason"]


def test_auto_spares_the_output_product_where_int8_does_not_agree(rates, monkeypatch):
    agree = iter([(False, "3 of 32 probe labels differ"), (True, "0 of 32 probe labels differ")])
    monkeypatch.setattr(precision, "compare", lambda want, got: next(agree))
    rates(80, 100, 200)
    found = info_of("auto")
    assert (found["dtype"], found["bfloat16_products"]) == ("int8", ("output",))
    assert "int8 does not agree: 3 of 32 probe labels differ" in found["reason"]


def test_auto_needs_answers_to_compare(rates):
    for none_is_faster in (60, 120):
        rates(80, none_is_faster, none_is_faster)
        with pytest.raises(ValueError, match=r"train mode has none: call model.eval\(\) first"):
            fastbert_kernels.patch(spread_model().train(), dtype="auto")
    kept = fastbert_kernels.patch(spread_model().train(), dtype="auto", backend="reference")  # compares nothing
    assert "nothing is measured" in fastbert_kernels.patch_info(kept)["reason"]


def test_a_mixed_rate_lies_between():
    found = product_rates.ProductRates(80, 100, 200, "float32")
    share = MixedInt8(("output",)).int8_share(10, 40)
    assert share == pytest.approx(2 / 3)
    assert found.mixed(share) == pytest.approx(1 / (2 / 3 / 200 + 1 / 3 / 100))


def test_products_in_bfloat16_beside_int8(rates):
    rates(80, 100, 120)
    model, batch = spread_model(), padded_batch([5, 17, 9])

    def answer(**options):
        with torch.inference_mode():
            return fastbert_kernels.patch(model, dtype=torch.int8, **options)(**batch).logits

    whole, spared = answer(), answer(bfloat16_products=["output", "qkv"])
    assert not torch.equal(whole, spared) and torch.allclose(whole, spared, atol=0.5)
    words = "int8 with qkv and output in bfloat16"
    found = fastbert_kernels.patch_info(model)
    assert (found["dtype"], found["bfloat16_products"]) == ("int8", ("qkv", "output"))
    assert found["precision"] == words and f"dtype={words}" in repr(model)
    with torch.inference_mode():
        assert torch.equal(copy.deepcopy(model)(**batch).logits, spared)
    rates(80, 20, 120)
    with pytest.warns(RuntimeWarning, match=f"torch.{words} is slower"):
        answer(bfloat16_products=("qkv", "output"))


def test_the_choice_is_in_the_repr_and_stays(rates, monkeypatch):
    monkeypatch.setattr(precision, "TOLERANCE", 1.0)
    rates(80, 100, 120)
    model = fastbert_kernels.patch(spread_model(), dtype="auto", probe=probe_of_one_text())
    words = r"dtype=auto, which took int8 \(GFLOP/s a core: float32 80, bfloat16 100(.*), int8 120; 0 of 1 probe"
    assert re.search(words, repr(model))[1] in ("", " (multiplied in float32)")
    batch = padded_batch([5, 17, 9])
    with torch.inference_mode():
        want = fastbert_kernels.patch(spread_model(), dtype=torch.int8)(**batch).logits
        rates(120, 100, 80)  # by which float32 would be taken, and what is not in int8 be multiplied in float32
        assert torch.equal(model(**batch).logits, want)
        model.layers[0].attention.output.LayerNorm.bias.fill_(0.5)  # derived anew, in the same precision
        changed = model(**batch).logits
        assert not torch.equal(changed, want)
        assert torch.equal(copy.deepcopy(model)(**batch).logits, changed)


def test_bad_arguments():
    with pytest.raises(ValueError, match="probe is what dtype='auto' compares"):
        info_of(torch.int8, probe=probe_of_one_text())
    with pytest.raises(ValueError, match="dtype must be None, 'auto', 'fp8' or one of"):
        info_of("fastest")
    for dtype in (None, torch.bfloat16, "auto"):
        with pytest.raises(ValueError, match=f"leave them out with dtype={dtype!r}"):
            info_of(dtype, bfloat16_products=("output",))
    for products, message in (
        ("output", "a collection of names, as \\('output',\\)"),
        (("key", "output"), "unknown bfloat16_products \\['key'\\]; a layer has qkv, attention_output"),
        (PRODUCTS, "all products of a layer; take dtype=torch.bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            info_of(torch.int8, bfloat16_products=products)
    assert fastbert_kernels.patch_info(spread_model()) is None


def test_other_backends_keep_the_precision_of_the_weights(monkeypatch):
    monkeypatch.setattr(precision, "product_rates", None)  # nothing is measured
    found = info_of("auto", backend="reference")
    assert (found["dtype"], found["rates"]) == (None, None) and "nothing is measured" in found["reason"]


@pytest.mark.parametrize(
    ("label", "difference", "agrees"), [(0, 0.04, True), (0, 0.06, False), (1, 0.0, False), (0, float("nan"), False)]
)
def test_agreement(label, difference, agrees):
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
    want = Results(logits, torch.tensor([0.5, 0.5]), torch.tensor([4, 4]))
    other = logits.clone()
    other[1, label] = 3.0
    got = Results(other, torch.tensor([0.5, 0.5 + difference]), torch.tensor([4, 4]))
    assert precision.compare(want, got)[0] == agrees
    tied = Results(torch.tensor([[1.02, 1.0]]), torch.tensor([0.99]), torch.tensor([4]))
    assert precision.compare(tied, Results(tied.logits.flip(1), tied.uncertainty, tied.exit_layer))[0]


def probe_of_one_text():
    return torch.arange(1, 20), torch.tensor([0, 19])


# The rates.


def test_the_variable_is_checked(monkeypatch):
    for wrong in ("80", "float32=80 bfloat16=75", "float32=80 bfloat16=75 int8=0", "float32=a bfloat16=75 int8=1", ""):
        monkeypatch.setenv(product_rates.VARIABLE, wrong)
        with pytest.raises(ValueError, match="three rates above 0"):
            product_rates.product_rates(384, 1536)


def test_the_faster_way_of_bfloat16_is_taken():
    rates = {"float32": 80.0, "bfloat16 as float32": 78.0, "int8": 90.0}
    assert product_rates._chosen(rates).bfloat16_operand == "float32"  # no such products
    slow, fast = product_rates._chosen({**rates, "bfloat16": 40.0}), product_rates._chosen({**rates, "bfloat16": 160.0})
    assert (slow.bfloat16_operand, slow.bfloat16) == ("float32", 78.0)
    assert (fast.bfloat16_operand, fast.bfloat16) == ("bfloat16", 160.0)
    assert product_rates._chosen({**rates, "bfloat16": 76.0}).bfloat16_operand == "bfloat16"  # within the margin


def test_measured_once_for_each_shape_by_whatever_thread(monkeypatch):
    monkeypatch.delenv(product_rates.VARIABLE)
    monkeypatch.setattr(product_rates, "_measured", MeasuredOnce())
    asked = []

    def measure(width, inner):
        asked.append((width, inner))
        return {"float32": 80.0 + len(asked), "bfloat16 as float32": 78.0, "int8": 90.0}

    monkeypatch.setattr(product_rates, "measure", measure)
    threads = [threading.Thread(target=product_rates.product_rates, args=(384, 1536)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [(384, 1536)]
    assert product_rates.product_rates(768, 3072).float32 == 82.0
    assert product_rates.product_rates(384, 1536).float32 == 81.0


def test_every_way_of_this_processor_has_a_rate(monkeypatch):
    monkeypatch.setattr(product_rates, "_ROUNDS", 1)
    found = product_rates.measure(64, 130)
    assert {"float32", "bfloat16 as float32", "int8"} <= found.keys()
    assert all(rate > 0 for rate in found.values())
