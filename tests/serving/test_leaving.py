"""Which setting the texts of a request leave by, and which second settings are refused."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch

from fastbert_hf import predict
from fastbert_kernels.engine.pool import Answer, PoolFullError
from helpers.waiting import wait_until

TEXTS = ["a good film", "bad", "the book is not very good", "film film film a the is fine", "a very bad book"]
LONG_AGO, NEVER = 1e-9, 1e6  # targets that the p99 is always above, or never


@pytest.fixture(scope="module")
def model(tokenizer):
    from helpers.serving import patched_model, setting_of

    model = patched_model()
    model.calibrated_setting = setting_of(model, 0.2, 1.5)
    return model


@pytest.fixture(scope="module")
def fast(model):
    from helpers.serving import setting_of

    return setting_of(model, 0.8, 3.0)


def test_under_load_texts_leave_by_the_fast_setting_and_are_told_so(model, fast, tokenizer):
    from helpers.serving import running

    batch = [[text] for text in TEXTS]
    with running(model, tokenizer, fast_setting=fast, target_p99=LONG_AGO) as server:
        server.predict("bad")  # nothing is predicted before there was an answer
        answers = server.predict(batch, details=True)
        own = server.predict(batch, details=True, speed=0.2)
        assert server.metric("fastbert_fast_setting") == 1
        assert server.metric("fastbert_setting_changes_total") == 1
        assert server.metric("fastbert_predicted_p99_seconds") > server.metric("fastbert_target_p99_seconds")
        assert server.metric("fastbert_texts_by_setting_total", setting="fast") >= len(TEXTS)
        assert server.request("GET", "/info")[2]["target_p99_ms"] == 1000 * LONG_AGO
    with running(model, tokenizer, fast_setting=fast, target_p99=NEVER) as server:
        calm = server.predict(batch, details=True)
        assert server.metric("fastbert_texts_by_setting_total", setting="calibrated") == len(TEXTS)
        assert server.metric("fastbert_fast_setting") == 0
    for got, setting, speed in ((answers, "fast", fast.rule), (own, None, 0.2), (calm, "calibrated", None)):
        want = predict(model, tokenizer, TEXTS, speed=speed)
        assert [each["exit_layer"] for each in got] == want.exit_layer.tolist()
        assert [each["uncertainty"] for each in got] == want.uncertainty.tolist()
        assert {each["setting"] for each in got} == {setting}
    assert [each["exit_layer"] for each in answers] != [each["exit_layer"] for each in calm]


def test_nothing_is_left_of_requests_without_an_answer(model, fast, tokenizer):
    from helpers.serving import running

    with running(model, tokenizer, fast_setting=fast, target_p99=NEVER, max_tokens=8) as server:
        assert server.request("POST", "/predict", {"inputs": "a good film is a good film"})[0] == 413
        assert server.request("POST", "/predict", {"inputs": "bad", "speedup": 9})[0] == 422
        assert server.predict("bad")
        assert server.service._choice.load._in_flight == {}


REFUSED = {
    "other weights": (lambda own, fast: (own, replace(fast, fingerprint="of others")), "other weights"),
    "not calibrated": (lambda own, fast: (None, fast), "no calibrated setting"),
    "no promise": (
        lambda own, fast: (own, replace(fast, evidence=replace(fast.evidence, guarantee=None))),
        "nothing is guaranteed of the fast setting",
    ),
    "own without promise": (
        lambda own, fast: (replace(own, evidence=replace(own.evidence, guarantee=None)), fast),
        "nothing is guaranteed of the model's setting",
    ),
    "precision": (lambda own, fast: (own, replace(fast, precision="int8")), "guaranteed in int8"),
    "length": (lambda own, fast: (replace(own, max_length=9), fast), "cut off at 9 tokens"),
    "slower": (lambda own, fast: (fast, own), "FLOPs speed-up of 1.5"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_calibration_does_not_promise_is_refused(model, fast, monkeypatch, change, message):
    from fastbert_serving.leaving import check_fast_setting

    own, other = change(model.calibrated_setting, fast)
    check_fast_setting(model, fast, 40, False)
    with pytest.raises(ValueError, match="passages"):
        check_fast_setting(model, fast, 40, True)
    monkeypatch.setattr(model, "calibrated_setting", own)
    with pytest.raises(ValueError, match=message):
        check_fast_setting(model, other, 40, False)


def test_an_audit_in_metrics(model, tokenizer):
    """All texts are drawn: what is counted is what `predict` says at the exits and at full depth."""
    from helpers.serving import running

    texts = [f"{'film ' * (1 + number % 9)}{TEXTS[number % 5]}" for number in range(32)]
    at_exit, full_depth = predict(model, tokenizer, texts), predict(model, tokenizer, texts, speed=0.0)
    differ = int((at_exit.labels != full_depth.labels).sum())
    assert 0 < differ < len(texts)
    with running(model, tokenizer, audit=1.0) as server:
        for start in range(0, len(texts), 8):
            server.predict([[text] for text in texts[start : start + 8]])
        server.predict("bad", speed=0.5)  # which no calibration promises anything about
        labels = {"setting": "calibrated"}
        wait_until(lambda: server.metric("fastbert_audit_audited_total", **labels) == len(texts))
        assert server.metric("fastbert_audit_texts_total", **labels) == len(texts)
        assert server.metric("fastbert_audit_disagreements_total", **labels) == differ
        low, high = (server.metric(f"fastbert_audit_disagreement_{end}", **labels) for end in ("low", "high"))
        assert 0 < low < differ / len(texts) < high < 1
        assert server.metric("fastbert_audit_promised", **labels) == 0.3
        assert server.metric("fastbert_audit_promise_broken", **labels) == (low > 0.3)
        assert server.metric("fastbert_texts_total") == len(texts) + 2  # and the one to warm up


def test_an_audit_of_a_few(model, tokenizer, monkeypatch):
    from helpers.serving import running, setting_of

    counted = setting_of(model, 0.2, 1.5, exit_counts=(1000, 0, 0, 0))
    monkeypatch.setattr(model, "calibrated_setting", counted)
    drawn = torch.tensor([True, False, True])
    with running(model, tokenizer, audit=0.5) as server:
        audit = server.service._audits["calibrated"]
        monkeypatch.setattr(audit, "draw", lambda count: drawn if count == 3 else torch.zeros(count, dtype=torch.bool))
        for _ in range(8):
            server.predict([[text] for text in TEXTS[:3]])
        wait_until(lambda: audit.report().audited == 16)
        assert server.metric("fastbert_audit_skipped_total") == 0
        assert server.metric("fastbert_audit_shifted", setting="calibrated") == 1
        assert server.metric("fastbert_audit_total_variation", setting="calibrated") > 0


class PoolByHand:
    """A pool whose futures the test answers; for copies of the audit, which run to full depth, there may be no room."""

    in_flight = (0, 0)

    def __init__(self, room_for_copies=True):
        self.clients, self.copies, self._room_for_copies, self.waits_for = [], [], room_for_copies, None

    def submit(self, input_ids, cu_seqlens, token_type_ids, /, *, speed, speedup, deadlines):
        if speed == 0.0 and not self._room_for_copies:
            raise PoolFullError("no room")
        futures = [Future() for _ in deadlines]
        (self.copies if speed == 0.0 else self.clients).extend(futures)
        return futures

    def close(self):
        self.waits_for = [future for future in self.clients + self.copies if not future.done()]


def _audited_by_hand(model, tokenizer, pool, then):
    """Have two texts answered, both of them drawn for the audit, then await `then`, and close; return the metrics."""
    from fastbert_serving.metrics import Metrics
    from fastbert_serving.service import Service
    from fastbert_serving.settings import Settings

    metrics = Metrics(4)
    service = Service(model, tokenizer, Settings(audit=1.0), metrics, pool)

    async def ask():
        answer = asyncio.ensure_future(service.answer(TEXTS[:2]))
        await _until(lambda: b"fastbert_tokens_total 0.0" not in metrics.page())
        assert len(pool.clients) == 2 and pool.copies == []
        for future in pool.clients:
            future.set_result(Answer(torch.tensor([0.0, 1.0, 2.0]), 0.5, 2))
        await answer
        await _until(lambda: then(metrics))
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    asyncio.run(ask())
    return metrics.page().decode()


def test_copies_enter_behind_the_answers_and_are_given_up_when_the_service_ends(model, tokenizer):
    pool = PoolByHand()
    page = _audited_by_hand(model, tokenizer, pool, lambda metrics: len(pool.copies) == 2)
    assert all(future.cancelled() for future in pool.copies) and pool.waits_for == []
    assert 'fastbert_audit_texts_total{setting="calibrated"} 2.0' in page
    assert 'fastbert_audit_audited_total{setting="calibrated"} 0.0' in page


def test_copies_without_room_are_skipped(model, tokenizer):
    pool = PoolByHand(room_for_copies=False)
    page = _audited_by_hand(
        model, tokenizer, pool, lambda metrics: b"fastbert_audit_skipped_total 2.0" in metrics.page()
    )
    assert 'fastbert_audit_audited_total{setting="calibrated"} 0.0' in page


@pytest.mark.parametrize(
    ("config", "message"), [({}, "not calibrated"), ({"problem_type": "regression", "labels": 1}, "gives scores")]
)
def test_models_without_an_audit(tokenizer, config, message):
    from fastbert_serving.metrics import Metrics
    from fastbert_serving.service import Service
    from fastbert_serving.settings import Settings
    from helpers.serving import patched_model

    with pytest.raises(ValueError, match=message):
        Service(patched_model(**config), tokenizer, Settings(audit=0.1), Metrics(4))


async def _until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)
