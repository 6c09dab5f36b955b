"""Who is measured: engines behind the same server, tokeniser and limits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TextClassificationPipeline
from transformers.utils import logging

import fastbert_kernels
from fastbert_hf import FastBertForSequenceClassification
from fastbert_hf.data import Text
from fastbert_kernels.engine.pool import Answer
from fastbert_serving.metrics import Metrics
from fastbert_serving.service import Service, TextAnswers
from fastbert_serving.settings import Settings
from peers import onnx_runtime
from peers.contestant import Request, Setup
from serving.fifo import Fifo, Row, RowPool
from serving.names import NO_REFILL, ONNX, PIPELINE, REFILL, SHELL
from serving.subjects import LONGEST, Subject

Make = Callable[[Subject, Any, Settings, Metrics, Path], Service]


def _loaded(subject: Subject) -> tuple[Any, Any]:
    model: Any = FastBertForSequenceClassification.from_pretrained(subject.fastbert).eval()
    return model, AutoTokenizer.from_pretrained(subject.fastbert)


def refill(subject: Subject, dtype: Any, settings: Settings, metrics: Metrics, folder: Path) -> Service:
    """Return what `fastbert serve` runs."""
    model, tokenizer = _loaded(subject)
    return Service(fastbert_kernels.patch(model, dtype=dtype), tokenizer, settings, metrics)


def no_refill(subject: Subject, dtype: Any, settings: Settings, metrics: Metrics, folder: Path) -> Service:
    """Return the same model, patched and with its exits, called once for each batch."""
    model, tokenizer = _loaded(subject)
    fastbert_kernels.patch(model, dtype=dtype)

    def run(rows: list[Row]) -> list[Answer]:
        bounds = torch.tensor([0, *(len(row.input_ids) for row in rows)]).cumsum(0)
        segments = [row.token_type_ids for row in rows if row.token_type_ids is not None]
        output = model.forward_packed(
            torch.cat([row.input_ids for row in rows]),
            bounds,
            torch.cat(segments) if segments else None,
            speed=None if rows[0].speed is None else torch.tensor([row.speed for row in rows]),
        )
        return [
            Answer(*numbers)
            for numbers in zip(output.logits, output.uncertainty.tolist(), output.exit_layer.tolist(), strict=True)
        ]

    return Service(model, tokenizer, settings, metrics, RowPool(run))


def onnx_int8(subject: Subject, dtype: Any, settings: Settings, metrics: Metrics, folder: Path) -> Service:
    """Return ONNX Runtime with its transformer optimisations and dynamic int8, on batches padded to their longest."""
    model, tokenizer = _loaded(subject)
    (entry,) = (entry for entry in onnx_runtime.ENTRIES if entry.dtype == "int8")
    contestant = entry.build(Setup(model, torch.device("cpu"), torch.get_num_threads(), folder))
    depth = model.config.num_hidden_layers

    def run(rows: list[Row]) -> list[Answer]:
        ids = torch.nn.utils.rnn.pad_sequence([row.input_ids for row in rows], batch_first=True)
        lengths = torch.tensor([len(row.input_ids) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return [Answer(logits, math.nan, depth) for logits in contestant.run(Request(ids, mask)).logits]

    return Service(model, tokenizer, settings, metrics, RowPool(run))


def pipeline(subject: Subject, dtype: Any, settings: Settings, metrics: Metrics, folder: Path) -> Service:
    """Return the pipeline of Transformers in float32, which tokenises and pads by itself."""
    return _PipelineService(subject, settings, metrics)


def shell(subject: Subject, dtype: Any, settings: Settings, metrics: Metrics, folder: Path) -> Service:
    """Return a service that tokenises, and then answers at once."""
    model, tokenizer = _loaded(subject)
    answer = Answer(torch.zeros(model.config.num_labels), 0.0, 1)
    return Service(model, tokenizer, settings, metrics, _AtOnce(answer))


class _AtOnce:
    """A pool in which nobody waits."""

    in_flight = (0, 0)

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def submit(self, input_ids: torch.Tensor, cu_seqlens: torch.Tensor, *others: Any, **asked: Any) -> list[Any]:
        futures: list[Future[Answer]] = [Future() for _ in range(len(cu_seqlens) - 1)]
        for future in futures:
            future.set_result(self._answer)
        return futures

    def close(self) -> None:
        pass


class _PipelineService(Service):
    """A service whose texts go to the pipeline as they are."""

    def __init__(self, subject: Subject, settings: Settings, metrics: Metrics) -> None:
        logging.set_verbosity_error()
        model, tokenizer = _loaded(subject)
        plain: Any = AutoModelForSequenceClassification.from_pretrained(subject.plain).eval()
        classify = TextClassificationPipeline(model=plain, tokenizer=AutoTokenizer.from_pretrained(subject.plain))
        depth = model.config.num_hidden_layers
        places = {label: place for place, label in plain.config.id2label.items()}  # `label2id` may not be set

        def run(texts: list[Text]) -> list[Answer]:
            found = classify(
                texts,
                batch_size=len(texts),
                top_k=None,
                function_to_apply="none",
                truncation=True,
                max_length=LONGEST,
            )
            answers = []
            for scores in found:
                logits = torch.zeros(len(places))
                for each in scores:
                    logits[places[each["label"]]] = each["score"]
                answers.append(Answer(logits, math.nan, depth))
            return answers

        self._fifo: Fifo[Text, Answer] = Fifo(run)
        super().__init__(model, tokenizer, settings, metrics, RowPool(lambda rows: []))

    async def answer(self, texts: Sequence[Text], **asked: Any) -> TextAnswers:
        rows = await asyncio.gather(*map(asyncio.wrap_future, self._fifo.put(texts)))
        logits = torch.stack([row.logits for row in rows])
        return TextAnswers(logits, [row.uncertainty for row in rows], [row.exit_layer for row in rows], [], 0)

    def close(self) -> None:
        self._fifo.close()
        super().close()


CONTESTANTS: dict[str, Make] = {
    REFILL: refill,
    NO_REFILL: no_refill,
    ONNX: onnx_int8,
    PIPELINE: pipeline,
    SHELL: shell,
}
