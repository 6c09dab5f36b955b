"""Streams of texts: in bounded memory, tokenised while the model computes, errors in their place, no thread left."""

from __future__ import annotations

import itertools
import threading
from contextlib import closing
from types import SimpleNamespace

import pytest

from fastbert_hf import iter_predict, predict, text_windows
from fastbert_hf.text_windows import THREAD_NAME
from helpers.stubs import StubModel, StubTokenizer


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert tokenising_threads() == []


def tokenising_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


class TrackedText(str):
    alive = 0

    def __new__(cls, content):
        cls.alive += 1
        return super().__new__(cls, content)

    def __del__(self):
        TrackedText.alive -= 1


def test_a_long_stream_is_read_no_further_than_two_windows_ahead():
    taken = 0

    def stream():
        nonlocal taken
        for taken in range(1, 200_001):
            yield TrackedText(taken - 1)

    done = 0
    for part in iter_predict(StubModel(), StubTokenizer(), stream(), window=4096):
        assert taken - done <= 2 * 4096
        assert TrackedText.alive <= 2 * 4096 + 1
        assert part.start == done
        assert part.uncertainty.tolist() == list(range(done, done + len(part)))
        done += len(part)
    assert done == taken == 200_000


@pytest.mark.parametrize("longest", [0, 3])
def test_a_window_of_long_texts_ends_early(monkeypatch, longest):
    monkeypatch.setattr(text_windows, "WINDOW_CHARACTERS", 100)
    texts = ["1", "2", "3", "4", "5", "6"]
    texts[longest] = f"{texts[longest]}{' ' * 200}"
    parts = list(iter_predict(StubModel(), StubTokenizer(), texts, window=5))
    assert [part.start for part in parts] == [0, longest + 1]
    assert [value for part in parts for value in part.uncertainty.tolist()] == [1, 2, 3, 4, 5, 6]
    assert len(predict(StubModel(), StubTokenizer(), texts[: longest + 1])) == longest + 1


def test_the_next_window_is_tokenised_while_the_model_computes():
    calls = []
    second = threading.Event()

    class Tokenizer(StubTokenizer):
        def __call__(self, texts, pairs, **options):
            calls.append(len(texts))
            if len(calls) == 2:
                second.set()
            return super().__call__(texts, pairs, **options)

    class Model(StubModel):
        def __call__(self, *args, **inputs):
            assert second.wait(timeout=60)
            return super().__call__(*args, **inputs)

    assert len(predict(Model(), Tokenizer(), list("1234"), window=2)) == 4


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ("", ValueError, "text 5 (counted from 0) is empty; leave it out"),
        (" \n", ValueError, "text 5 (counted from 0) is empty"),
        (None, TypeError, "text 5 (counted from 0) is of type NoneType; pass a string"),
        (float("nan"), TypeError, "text 5 (counted from 0) is of type float"),
        (("1", 3), TypeError, "text 5 (counted from 0) is of type tuple of (str, int)"),
        (("1", "2"), ValueError, "text 5 (counted from 0) is a pair, but the input began with single texts"),
        ("five", ValueError, "text 5 (counted from 0) cannot be tokenised (ValueError: invalid literal"),
    ],
)
def test_a_bad_text_is_named_after_the_windows_before_it(bad, error, message):
    answers = iter_predict(StubModel(), StubTokenizer(), ["1", "2", "3", "4", "5", bad, "6"], window=2)
    assert [len(part) for part in itertools.islice(answers, 2)] == [2, 2]
    with pytest.raises(error) as caught:
        next(answers)
    assert str(caught.value).startswith(message)
    assert tokenising_threads() == []


@pytest.mark.parametrize("bad", ["1", ("1", ""), ("1", "2", "3")])
def test_a_bad_pair_is_named(bad):
    with pytest.raises((TypeError, ValueError), match="text 1 "):
        predict(StubModel(), StubTokenizer(), [("1", "2"), bad])


def test_a_failing_source_is_reported_after_the_windows_before_it():
    def source():
        yield from ["1", "2", "3"]
        raise OSError("the line is dead")

    answers = iter_predict(StubModel(), StubTokenizer(), source(), window=2)
    assert len(next(answers)) == 2
    with pytest.raises(OSError, match="the line is dead"):
        next(answers)
    assert tokenising_threads() == []


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([5], r"text 3 .* has the token id 10, but the model knows 10 ids; use the tokenizer"),
        ([], r"text 0 .* has no tokens; use the tokenizer"),
        (None, r"text 0 .* cannot be tokenised \(ZeroDivisionError"),
    ],
)
def test_a_tokenizer_that_does_not_fit(ids, message):
    class Tokenizer(StubTokenizer):
        def __call__(self, texts, pairs, **options):
            return {"input_ids": [[int(text), *ids] if ids else [1 // 0] if ids is None else [] for text in texts]}

    class Model(StubModel):
        def get_input_embeddings(self):
            return SimpleNamespace(num_embeddings=10)

    with pytest.raises(ValueError, match=message):
        predict(Model(), Tokenizer(), ["7", "8", "9", "10"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_model_ends_the_thread(error):
    class Model(StubModel):
        def __call__(self, *args, **inputs):
            raise error

    with pytest.raises(error) as caught:
        predict(Model(), StubTokenizer(), map(str, range(100)), window=10)
    assert tokenising_threads() == [] and caught.tb is not None  # although the traceback is kept


def test_leaving_the_loop_early_ends_the_thread():
    with closing(iter_predict(StubModel(), StubTokenizer(), map(str, itertools.count()), window=10)) as answers:
        assert next(answers).start == 0 and next(answers).start == 10
        assert len(tokenising_threads()) == 1
    assert tokenising_threads() == []
    for part in iter_predict(StubModel(), StubTokenizer(), map(str, itertools.count()), window=10):
        assert part.start == 0
        break
    assert tokenising_threads() == []
