"""Predictions for many texts, from a list to a stream that does not fit into memory."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from transformers import PreTrainedTokenizerBase

from fastbert_hf.configuration import class_names
from fastbert_hf.data import Text, check_passages, whole_number
from fastbert_hf.exits.resolution import Speed
from fastbert_hf.outputs import predictions_of, probabilities_of
from fastbert_hf.passages import Answers, Stride, answers_of_texts
from fastbert_hf.text_windows import TokenisedWindow, WindowTokeniser, tokenised_ahead

if TYPE_CHECKING:
    from fastbert_hf.audit import Audit

# Tokens of a batch, with the padding that is computed. On two CPU cores and a 6-layer MiniLM, larger batches were no
# faster patched and slower unpatched, where padded activations leave the cache. On a GPU, 128 texts of 128 tokens leave
# the deep layers some work when few texts survive to them; this figure is not measured.
MAX_TOKENS_CPU = 4096
MAX_TOKENS = 16384
WINDOW = 8192


@dataclass(frozen=True)
class Predictions:
    """Answers for n consecutive texts in input order; every tensor is on the CPU.

    Attributes:
        start: position in the input of the first of these texts; 0 where they are all.
        logits: float32 [n, N], of the exit head at which each text left.
        uncertainty: float32 [n] of `logits`, in [0, 1]; NaN where the logits are not finite.
        exit_layer: int64 [n], number of encoder layers executed for the text, 1..L; 0 at exit zero.
        truncated: bool [n], whether the text has more tokens than the model was given.
        id2label: name of every class.
        multi_label: a text has any number of classes instead of exactly one.
    """

    start: int
    logits: torch.Tensor
    uncertainty: torch.Tensor
    exit_layer: torch.Tensor
    truncated: torch.Tensor
    id2label: dict[int, str]
    multi_label: bool = False

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def labels(self) -> torch.Tensor:
        """int64 [n], the most likely class of every text; multi-label: bool [n, N], whether the probability is above
        1/2."""
        return predictions_of(self.logits, self.multi_label)

    @property
    def scores(self) -> torch.Tensor:
        """float32 [n], the logits of a model with one output; ValueError for one with classes."""
        if self.logits.shape[-1] != 1:
            raise ValueError(f"a model of {self.logits.shape[-1]} classes gives no score; take probabilities")
        return self.logits[:, 0]

    @property
    def label_names(self) -> list[str] | list[list[str]]:
        """Name of the most likely class of every text; multi-label: the names of its classes."""
        if self.multi_label:
            return [[self.id2label[i] for i, has in enumerate(row) if has] for row in self.labels.tolist()]
        return [self.id2label[label] for label in self.labels.tolist()]

    @property
    def probabilities(self) -> torch.Tensor:
        """float32 [n, N], the softmax of `logits`; multi-label: their sigmoid. A score has none: ValueError."""
        if self.logits.shape[-1] == 1:
            raise ValueError("a model with one output gives scores, not probabilities; take scores")
        return probabilities_of(self.logits, self.multi_label)


def predict(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Text],
    *,
    speed: Speed | None = None,
    speedup: float | None = None,
    max_tokens: int | None = None,
    max_length: int | None = None,
    stride: Stride = "trained",
    window: int = WINDOW,
    progress: bool | None = None,
    audit: Audit | None = None,
) -> Predictions:
    """Classify texts, in input order, with batches made for speed: texts of similar length share one.

    Arguments and errors as in `iter_predict`; only the answers of all texts are held in memory at once.

    Returns:
        The answers of all n texts; n may be 0.
    """
    empty = Predictions(
        start=0,
        logits=torch.zeros(0, model.config.num_labels, dtype=torch.float32),
        uncertainty=torch.zeros(0, dtype=torch.float32),
        exit_layer=torch.zeros(0, dtype=torch.int64),
        truncated=torch.zeros(0, dtype=torch.bool),
        id2label=model.config.id2label,
        multi_label=model.config.multi_label,
    )
    lengths: dict[str, Any] = {"max_tokens": max_tokens, "max_length": max_length, "stride": stride, "window": window}
    given = iter_predict(
        model, tokenizer, texts, speed=speed, speedup=speedup, progress=progress, audit=audit, **lengths
    )
    parts = [empty, *given]
    return Predictions(
        start=0,
        logits=torch.cat([part.logits for part in parts]),
        uncertainty=torch.cat([part.uncertainty for part in parts]),
        exit_layer=torch.cat([part.exit_layer for part in parts]),
        truncated=torch.cat([part.truncated for part in parts]),
        id2label=empty.id2label,
        multi_label=empty.multi_label,
    )


def iter_predict(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[Text],
    *,
    speed: Speed | None = None,
    speedup: float | None = None,
    max_tokens: int | None = None,
    max_length: int | None = None,
    stride: Stride = "trained",
    window: int = WINDOW,
    progress: bool | None = None,
    total: int | None = None,
    audit: Audit | None = None,
) -> Generator[Predictions, None, None]:
    """Classify a stream of texts; the answers come window by window, in input order.

    While the model computes a window, a thread tokenises the next one, with a copy of the tokenizer. Within a window
    texts are sorted by length and cut into batches by their number of tokens. At most two windows of texts are in
    memory, however many follow. Leaving the loop early ends the thread, once the returned generator is closed or
    forgotten. Fast tokenizers use all cores for their short part of the work, unless the environment says
    `TOKENIZERS_PARALLELISM=false`.

    Args:
        model: a FastBERT model in eval mode, patched or not, on any device.
        tokenizer: the one it was trained with; it is left as it was.
        texts: strings, or pairs of strings as tuples; any iterable, read in the caller's thread.
        speed: as in the model's `forward`, with a float tensor [n] for one Speed per text (of texts that have a `len`).
            `None`: the model's calibrated setting, or full depth where it has none.
        speedup: instead of `speed`, the FLOPs speed-up wanted of a calibrated model.
        max_tokens: a batch has at most this many tokens; a text longer than that is a batch of its own. Padding counts
            (texts x longest text), unless the model is patched and computes none. `None`: 4,096 on a CPU and 16,384
            elsewhere.
        max_length: longer texts are cut off at this many tokens, special tokens included; `None`: where those of the
            training were, or where the model or the tokenizer ends.
        stride: longer texts are not cut off but read in passages of `max_length` tokens, each of which shares `stride`
            tokens with the one before it. Every passage leaves when it may; the probabilities of a text are the mean of
            those of its passages, its uncertainty is that of the mean, and its exit layer that of the passage that went
            deepest. Single texts and fast tokenizers only. A calibration's guarantee is for texts that were cut off.
            "trained": as in training, where texts are cut off unless it was told a stride; `None`: cut off.
        window: texts that are tokenised and sorted together; fewer where they have millions of characters.
        progress: show a progress bar on stderr; `None`: if that is a terminal.
        total: number of texts, for the progress bar; `None`: their `len`, if they have one.
        audit: draws texts that run to full depth as well, and counts how many of them are answered otherwise there, as
            `Audit.of(model, share=0.01)`; the answers are the same with it and without.

    Returns:
        A generator of the answers for `window` texts each, for fewer in the last one and where texts are very long.

    Raises:
        TypeError: `texts` is a single string, an item is neither a string nor a pair, or `speed` is none of the above.
        ValueError: `speed` or `speedup` that the model's `resolve_speed` refuses, `max_tokens`, `max_length`, `stride`
            or `window` out of range, passages of pairs or of a tokenizer in Python, an empty text, pairs mixed with
            single texts, or a text that the tokenizer fails on.
            What concerns a text names its position, and is raised after the windows before it were delivered.
        RuntimeError: the model is in train mode, in which dropout would make the answers random.

    Warns:
        RuntimeWarning: an uncertainty is not finite, with the positions of the texts.
    """
    if isinstance(texts, str | bytes):
        raise TypeError("texts is a single string; pass a list of texts: [text]")
    if model.device.type == "meta":
        raise ValueError("the model's weights are on the meta device (offloaded, or not loaded); load it whole first")
    if max_tokens is None:
        max_tokens = MAX_TOKENS_CPU if model.device.type == "cpu" else MAX_TOKENS
    max_tokens, window = whole_number("max_tokens", max_tokens), whole_number("window", window)
    for name, value in (("max_tokens", max_tokens), ("window", window)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    class_names(model.config.id2label)  # names given after the model was made
    _check_eval_mode(model)
    if total is None and isinstance(texts, Sized):
        total = len(texts)
    if isinstance(speed, torch.Tensor) and not isinstance(texts, Sized):
        raise TypeError("one Speed per text needs texts that have a len; pass a list, or a number as speed")
    # What is wrong with it is said now, not at the first window.
    model.resolve_speed(speed, speedup, len(texts) if isinstance(texts, Sized) else 1)
    max_length = resolve_max_length(model, tokenizer, max_length)
    stride = resolve_stride(model, tokenizer, max_length, stride)
    tokenise = WindowTokeniser(tokenizer, max_length, model.get_input_embeddings().num_embeddings, stride)
    windows = tokenised_ahead(texts, tokenise, window)
    return _predictions(model, windows, speed, speedup, max_tokens, progress, total, audit)


def _predictions(
    model: Any,
    windows: Generator[TokenisedWindow, None, None],
    speed: Speed | None,
    speedup: float | None,
    max_tokens: int,
    progress: bool | None,
    total: int | None,
    audit: Audit | None,
) -> Generator[Predictions, None, None]:
    # closing: a traceback that somebody keeps would keep the other generator, and with it the thread, alive.
    with closing(windows), _progress(progress, total) as advance:
        for window in windows:
            _check_eval_mode(model)  # the caller had control since the last window
            rows = _run(model, window, speed, speedup, max_tokens, advance)
            answers = answers_of_texts(model, rows, window.order, window.num_texts, speed, speedup)
            truncated = torch.zeros(window.num_texts, dtype=torch.bool)
            truncated[window.order] = window.truncated
            _warn_if_not_finite(answers.uncertainty, window.start)
            if audit is not None:
                _add_to(audit, model, window, answers, max_tokens)
            yield Predictions(
                start=window.start,
                logits=answers.logits,
                uncertainty=answers.uncertainty,
                exit_layer=answers.exit_layer,
                truncated=truncated,
                id2label=model.config.id2label,
                multi_label=model.config.multi_label,
            )


def _add_to(audit: Audit, model: Any, window: TokenisedWindow, answers: Answers, max_tokens: int) -> None:
    """Count the `answers` of a window, and run the texts that are drawn to full depth."""
    drawn = audit.draw(window.num_texts)
    audit.add_exits(answers.exit_layer)
    if not drawn.any():
        return
    part = window.of_texts(drawn)
    rows = _run(model, part, 0.0, None, max_tokens, lambda count: None)
    full_depth = answers_of_texts(model, rows, part.order, part.num_texts, 0.0)
    audit.add_answers(answers.logits[drawn], full_depth.logits)


@torch.inference_mode()
def _run(
    model: Any,
    window: TokenisedWindow,
    speed: Speed | None,
    speedup: float | None,
    max_tokens: int,
    advance: Callable[[int], None],
) -> Answers:
    """Return the answers of a window, in the order of its rows."""
    if isinstance(speed, torch.Tensor):
        speed = speed[window.start + window.order].to(model.device)
    outputs = []
    begun: set[int] = set()  # texts
    forward, window = packed_method(model, "forward_packed"), window.to(model.device)
    batches = window.padded_batches(max_tokens) if forward is None else window.packed_batches(max_tokens)
    for rows, batch in batches:
        of_rows = speed[rows] if isinstance(speed, torch.Tensor) else speed
        output = (forward or model)(**batch, speed=of_rows, speedup=speedup)
        outputs.append((output.logits, output.uncertainty, output.exit_layer))
        before = len(begun)
        begun.update(window.order[rows].tolist())
        advance(len(begun) - before)
    # Read back once per window: reading every batch would make the host wait for the device each time.
    return Answers(*(torch.cat(parts).cpu() for parts in zip(*outputs, strict=True)))


def packed_method(model: Any, name: str) -> Callable[..., Any] | None:
    """Return a method of the model for texts without padding, which whoever accelerates a model may have added.

    `None` where it has none, or hooks of its own, which only a call of the model itself runs.
    """
    hooked = getattr(model, "_forward_hooks", None) or getattr(model, "_forward_pre_hooks", None)
    return None if hooked else getattr(model, name, None)


def _check_eval_mode(model: Any) -> None:
    if model.training:
        raise RuntimeError("the model is in train mode, its answers would be random; call model.eval() first")


def resolve_max_length(model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> int:
    """Return at how many tokens texts are cut off; `None`: where those of the training were, or where the model or the
    tokenizer ends.

    Raises:
        ValueError: `max_length` leaves no room for a text, or is more than the model has positions.
    """
    positions = model.config.max_position_embeddings
    if max_length is None:
        trained = model.config.trained_max_length
        if trained is None:
            return min(positions, tokenizer.model_max_length)
        max_length = min(positions, trained)
    special, max_length = tokenizer.num_special_tokens_to_add(), whole_number("max_length", max_length)
    if not special < max_length <= positions:
        raise ValueError(
            f"max_length must be above {special} (the special tokens) and at most {positions} (the model's positions), "
            f"got {max_length}"
        )
    return max_length


def resolve_stride(model: Any, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: Stride) -> int | None:
    """Return how many tokens passages of `max_length` tokens share; `None`: longer texts are cut off.

    Raises:
        ValueError: passages that cannot be, see `check_passages`.
    """
    shared: int | None = model.config.trained_stride if stride == "trained" else stride
    return None if shared is None else check_passages(tokenizer, max_length, shared)


def _warn_if_not_finite(uncertainty: torch.Tensor, start: int) -> None:
    """Name positions in the input: the model's own warning, if any, can only name rows of its batch."""
    positions = (start + uncertainty.isnan().nonzero().flatten()).tolist()
    if positions:
        shown = ", ".join(map(str, positions[:10])) + (", ..." if len(positions) > 10 else "")
        warnings.warn(
            f"uncertainty is not finite for {len(positions)} text(s), at position(s) {shown} of the input: "
            "NaN or inf in the weights",
            RuntimeWarning,
            stacklevel=3,
        )


class _Rate(ProgressColumn):
    def render(self, task: Task) -> str:
        return f"{task.completed / task.elapsed:,.0f} texts/s" if task.elapsed else ""


@contextmanager
def _progress(wanted: bool | None, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to call with every number of texts done; shows a bar on stderr if wanted."""
    if wanted is None:
        wanted = sys.stderr.isatty()
    if not wanted:
        yield lambda count: None
        return
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("texts", total=total)
        yield lambda count: bar.advance(task, count)
