"""On a CPU not one bit of a text's answer depends on its batch, its neighbours or the number of threads."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fastbert_kernels
from fastbert_kernels import threads
from helpers.models import padded_batch, spread_model

LENGTHS = [7, 130, 1, 33, 64, 5, 128, 2, 90, 41, 300, 6, 17, 250, 3, 77, 129, 12, 8, 65] * 2
# Wide enough for the layers to be shared out among threads.
SHAPE = {"hidden_size": 128, "layers": 3}
BATCHES = [1, 7, 16, 40]


@pytest.fixture(scope="module")
def texts():
    torch.manual_seed(5)
    return padded_batch(LENGTHS)


@pytest.fixture
def five_processors(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "processors", lambda: 5)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def answers(model, texts, batch, speed):
    """Logits, uncertainties and exit layers of all texts, `batch` at a time, each batch as long as its longest text."""
    parts = []
    for begin in range(0, len(LENGTHS), batch):
        longest = max(LENGTHS[begin : begin + batch])
        inputs = {name: ids[begin : begin + batch, :longest] for name, ids in texts.items()}
        out = model(**inputs, speed=speed)
        parts.append((out.logits, out.uncertainty, out.exit_layer))
    return [torch.cat(part) for part in zip(*parts, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("speed", [None, 0.5], ids=["full-depth", "exits"])
def test_not_one_bit_depends_on_batch_or_threads(five_processors, texts, dtype, speed):
    model = fastbert_kernels.patch(spread_model(**SHAPE), dtype=dtype)
    torch.set_num_threads(1)
    want = answers(model, texts, 1, speed)
    if speed is not None:
        assert want[2].unique().numel() > 1
    for count, batch in itertools.product([1, 2, 3, 5], BATCHES):
        torch.set_num_threads(count)
        got = answers(model, texts, batch, speed)
        assert all(map(torch.equal, got, want)), f"{count} threads, batches of {batch}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_calls_at_once_answer_as_one_after_another(five_processors, texts, dtype):
    model = fastbert_kernels.patch(spread_model(**SHAPE), dtype=dtype)
    wants = {(batch, speed): answers(model, texts, batch, speed) for batch in BATCHES for speed in (None, 0.5)}
    with ThreadPoolExecutor(4) as executor:
        for _ in range(3):
            jobs = {key: executor.submit(answers, model, texts, *key) for key in wants}
            for key, job in jobs.items():
                assert all(map(torch.equal, job.result(), wants[key])), key
