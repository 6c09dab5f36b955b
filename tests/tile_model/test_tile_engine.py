"""The engine with tiles: the choice of the instruction set, and answers that do not depend on where tiles are taken."""

from __future__ import annotations

import json

import in_model
import pytest
import tile_kernels

import cmake_builds

pytestmark = [
    pytest.mark.proof,  # the first compiles the module
    pytest.mark.skipif(cmake_builds.missing() is not None, reason=str(cmake_builds.missing())),
]

INFO = """
import json
names = ["cpu_instruction_set", "cpu_instruction_sets", "cpu_tile_rows"]
print(json.dumps({name: getattr(module, name)() for name in names}))
"""
ACCURACY = """
import torch
from fastbert_kernels import _extension
from helpers.accuracy import assert_encoder_layer_is_accurate, assert_attentive_head_is_accurate
from helpers.op_inputs import attentive_head_inputs, layer_weights
assert _extension.module().cpu_instruction_set() == "amx"
torch.manual_seed(20)
for shape in [(48, 64, 2, 5), (136, 256, 8, 3), (13, 64, 2, 2)]:
    inputs = attentive_head_inputs([1, 5, 64, 129], *shape)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert_attentive_head_is_accurate(inputs, dtype, "cpu")
for shape in [(48, 100, 3), (192, 320, 3), (13, 9, 1)]:
    for dtype in (torch.float32, torch.bfloat16, torch.int8):
        assert_encoder_layer_is_accurate(layer_weights(*shape), [1, 5, 64, 129, 7], dtype)
"""
# Answers of a model to 40 texts at once and one at a time, in bfloat16 and in int8.
ANSWERS = """
import hashlib, torch, fastbert_kernels
from helpers.models import padded_batch, spread_model
torch.set_num_threads(2)
lengths = [1, 2, 5, 9, 16, 17, 20, 33] * 5
for dtype in (torch.bfloat16, torch.int8):
    model = fastbert_kernels.patch(spread_model(hidden_size=64), dtype=dtype)
    torch.manual_seed(1)
    batch = padded_batch(lengths)
    with torch.inference_mode():
        together = model(**batch, speed=0.4)
        alone = [model(**{name: ids[i : i + 1] for name, ids in batch.items()}, speed=0.4) for i in range(len(lengths))]
    assert torch.equal(together.logits, torch.cat([result.logits for result in alone]))
    assert torch.equal(together.exit_layer, torch.cat([result.exit_layer for result in alone]))
    print(hashlib.sha256(together.logits.numpy().tobytes()).hexdigest())
"""
# How many products of tiles the answers of a model take.
PRODUCTS = """
import ctypes, torch, fastbert_kernels
from helpers.models import padded_batch, spread_model
library = ctypes.CDLL(module.__file__)
library.tile_products.restype = ctypes.c_int64
model = fastbert_kernels.patch(spread_model(hidden_size=64), dtype=torch.bfloat16)
batch = padded_batch([20, 33])
library.tile_products()
with torch.inference_mode():
    model(**batch, speed=0.4)
print(library.tile_products())
"""
# A program, and before it what `info()` says of its thread, which is not the first: that has only chosen the kernels.
IN_A_THREAD = """
import threading
assert module.cpu_instruction_set() == "amx"
def run():
    print(module.cpu_tile_rows(), flush=True)
    exec(PROGRAM, {})
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


VECTORS = pytest.mark.parametrize(
    "avx512",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                not tile_kernels.has_avx512(), reason="this processor has no AVX-512 with bfloat16"
            ),
        ),
    ],
)


def output(program, *, avx512=False, **environment):
    run = in_model.run(program, avx512=avx512, **environment)
    assert run.returncode == 0, run.stderr
    return run.stdout


@VECTORS
@pytest.mark.parametrize("rows", ["1", "7"])
def test_accuracy(rows, avx512):
    output(ACCURACY, avx512=avx512, FASTBERT_TILE_ROWS=rows)


@VECTORS
def test_answers_do_not_depend_on_where_tiles_are_taken(avx512):
    """In products of many rows, in none; in every product, but by one thread of two; and by measurement."""
    answers = {output(ANSWERS, avx512=avx512, FASTBERT_TILE_ROWS=rows) for rows in ("9", "1000000")}
    answers.add(output(ANSWERS, avx512=avx512, FASTBERT_TILE_ROWS="1", FASTBERT_TILE_MODEL_SYSTEM="threads"))
    answers.add(output(ANSWERS, avx512=avx512))
    assert len(answers) == 1


def test_a_thread_without_tiles_may_be_the_first_to_multiply():
    """What tells from how many rows on tiles are taken is measured with tiles, and so not by such a thread."""
    in_a_thread = IN_A_THREAD.replace("PROGRAM", repr(ANSWERS))
    assert output(in_a_thread, FASTBERT_TILE_MODEL_SYSTEM="threads").split() == ["None", *output(ANSWERS).split()]


def test_tiles_are_in_use_and_their_choice_is_measured():
    information = json.loads(output(INFO))
    assert information["cpu_instruction_set"] == "amx"
    assert information["cpu_instruction_sets"] == {"amx": "in use", "portable": "available"}
    rows = information["cpu_tile_rows"]
    assert rows.keys() == {"bfloat16", "int8"}
    assert all(1 <= fewest <= 17 for by_depth in rows.values() for fewest in by_depth.values())


@pytest.mark.parametrize(("bfloat16", "in_tiles"), [(80, True), (40, False)])
def test_nothing_is_multiplied_in_bfloat16_where_that_is_slower(bfloat16, in_tiles):
    """Neither by the layers nor by attention and the heads."""
    rates = f"float32=80 bfloat16={bfloat16} int8=80"
    assert (int(output(PRODUCTS, FASTBERT_TILE_ROWS="1", FASTBERT_PRODUCT_RATES=rates)) > 0) == in_tiles


def test_refused_permission_falls_back_without_a_word():
    run = in_model.run(INFO, FASTBERT_TILE_MODEL_SYSTEM="process")
    assert run.returncode == 0 and run.stderr == ""
    information = json.loads(run.stdout)
    assert information["cpu_instruction_set"] == "portable"
    assert "does not permit" in information["cpu_instruction_sets"]["amx"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("kept", "lose what is in them"), ("int8", "int8 products"), ("bfloat16", "bfloat16 products of tiles are wrong")],
)
def test_faulty_tiles_are_not_used(fault, reason):
    information = json.loads(output(INFO, FASTBERT_TILE_MODEL_FAULT=fault))
    assert information["cpu_instruction_set"] == "portable"
    assert reason in information["cpu_instruction_sets"]["amx"]


def test_tiles_that_round_in_another_order_take_every_row():
    """Answers must not depend on the number of rows, so no product is left to vectors, whatever is measured."""
    information = json.loads(output(INFO, FASTBERT_TILE_MODEL_FAULT="order", FASTBERT_TILE_ROWS="8"))
    assert information["cpu_tile_rows"]["bfloat16"] == {"64": 1, "256": 1, "1024": 1}
    assert information["cpu_tile_rows"]["int8"] == {"64": 8, "256": 8, "1024": 8}
    output(ANSWERS, FASTBERT_TILE_MODEL_FAULT="order")


def test_a_named_set_never_falls_back():
    run = in_model.run(INFO, FASTBERT_TILE_MODEL_SYSTEM="process", FASTBERT_CPU_ISA="amx")
    assert run.returncode != 0
    assert "FASTBERT_CPU_ISA=amx is not available: the system does not permit the use of AMX tiles" in run.stderr


def test_the_set_that_is_named():
    assert json.loads(output(INFO, FASTBERT_CPU_ISA="portable"))["cpu_instruction_set"] == "portable"
    run = in_model.run(INFO, FASTBERT_CPU_ISA="sse9")
    assert "FASTBERT_CPU_ISA=sse9 is not one of amx, portable" in run.stderr
