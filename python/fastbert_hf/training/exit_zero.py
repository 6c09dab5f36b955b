"""Exit zero: the student classifier before the first layer, fitted to what the teacher classifier answers.

With x_i the counts of text i's hashed tokens and pairs over sqrt(2 n_i - 1), which `bag.HashedBag` sums, and p_i the
teacher's distribution, it minimises over V and the bias

    1/n sum_i CE(p_i, softmax(bias + x_i D V)) + penalty / 2 |V|^2,    table = D V

with D the diagonal of the inverse document frequencies log((1 + n) / (1 + n_b)) + 1 of the buckets b. That is the
student's loss of step 2 (Liu et al. 2020, section 3.2.3; cross-entropy and KL differ by what only the teacher decides),
which is convex here, so that L-BFGS finds the one minimum whatever it begins with. Of a multi-label model the softmax
is a sigmoid for each class. The penalty is the one, of a few, whose loss is the lowest on a tenth of the texts that the
others fitted; then all texts fit. Buckets that occur in one text only are left at 0 where there are many texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, sparse, special
from torch import nn
from transformers import PreTrainedTokenizerBase

from fastbert_hf.bag import DEFAULT_BUCKETS, HashedBag, hashed_grams
from fastbert_hf.data import TextData, TokenisedDataset
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.outputs import probabilities_of, same_predictions
from fastbert_hf.passages import Stride
from fastbert_hf.prediction import resolve_max_length, resolve_stride
from fastbert_hf.progress import Progress, no_progress
from fastbert_hf.training.checks import check_texts, check_vocabulary

Floats = npt.NDArray[np.float32]

FEWEST_TEXTS = 20
_PENALTIES = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003, 0.0001)
_HELD_OUT = 10  # one text of so many
# From so many texts on, buckets of one text only are left out.
_MANY_TEXTS = 1000
# Numbers in a table at most, where the number of buckets is not given: 16 MB.
_LARGEST_TABLE = 2**22
_MOST_STEPS = 200


@dataclass(frozen=True)
class ExitZeroResult:
    """Report of the fit.

    Attributes:
        texts: that it learned from; passages, where texts were divided.
        buckets: of the table.
        used_buckets: how many of them have numbers other than 0.
        penalty: that was chosen.
        agreement: part of the texts held out whose answer was the teacher's, before they fitted too.
    """

    texts: int
    buckets: int
    used_buckets: int
    penalty: float
    agreement: float


def distill_exit_zero(
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: TextData,
    *,
    buckets: int | None = None,
    max_length: int | None = None,
    stride: Stride = "trained",
    batch_size: int = 32,
    seed: int = 0,
    progress: Progress = no_progress,
) -> ExitZeroResult:
    """Distill the student classifier before the first layer from the teacher classifier, and add it where it is new.

    Every text runs to full depth once, on the device the model is on; a patched model does it faster. The calibrated
    setting, if there is one, is dropped.

    Args:
        model: changed in place, and left in eval mode.
        tokenizer: the backbone's.
        data: at least 20 texts. Labels are not looked at.
        buckets: rows of the table, a power of 2; `None`: those it has, else 2^18, or fewer for very many classes.
        max_length: tokens at which texts are cut off, as in `predict`; `stride` too.
        stride: see `max_length`.
        batch_size: texts per forward pass.
        seed: of which texts are held out.
        progress: is told of the steps "answers of the teacher" and "fits of exit zero".

    Raises:
        ValueError: too few texts, answers that are not finite, a model that gives scores, or numbers out of range.
    """
    check_texts(data)
    if len(data) < FEWEST_TEXTS:
        raise ValueError(f"{len(data)} texts are too few to fit exit zero to; use at least {FEWEST_TEXTS}")
    if model.config.gives_scores:
        raise ValueError("exit zero is for models with classes, and this one gives scores (one output)")
    check_vocabulary(model, tokenizer, data)
    max_length = resolve_max_length(model, tokenizer, max_length)
    texts = TextData(data.texts, data.pairs)
    dataset = TokenisedDataset(texts, tokenizer, max_length, resolve_stride(model, tokenizer, max_length, stride))
    model.eval()
    answers = _teacher_logits(model, dataset, batch_size, progress)
    if not bool(answers.isfinite().all()):
        raise ValueError("some answers of the teacher classifier are not finite, and nothing can be learned from them")
    bag = model.exit_zero
    if bag is None or buckets not in (None, len(bag.table)):
        bag = _fresh_bag(model, _buckets_for(model.num_labels) if buckets is None else buckets)
    counts, columns = _features(dataset, len(bag.table))
    fit = _Fit(counts, answers, model.config.multi_label, seed)
    weights, bias = fit.run(progress)
    with torch.no_grad():
        bag.table.zero_()
        bag.table[torch.from_numpy(columns).to(bag.table.device)] = torch.from_numpy(weights).to(bag.table)
        bag.bias.copy_(torch.from_numpy(bias))
    model.calibrated_setting = None
    model.seen_texts = model.seen_texts.with_run(data, None)
    return ExitZeroResult(len(dataset), len(bag.table), len(columns), fit.penalty, fit.agreement)


def _fresh_bag(model: FastBertForSequenceClassification, buckets: int) -> HashedBag:
    """Put a bag before the first layer, in place of one that is there."""
    config, behind_layers = model.config, model.layer_heads
    before = config.exit_layers, config.exit_zero_buckets
    config.exit_layers = [0, *(layer for layer in config.exit_layers if layer > 0)]
    config.exit_zero_buckets = buckets
    try:
        config.check()
    except ValueError:
        config.exit_layers, config.exit_zero_buckets = before
        raise
    bag = HashedBag(buckets, model.num_labels).to(device=model.device, dtype=model.dtype)
    model.heads = nn.ModuleList([bag, *behind_layers]).eval()
    return bag


def _buckets_for(num_labels: int) -> int:
    return min(DEFAULT_BUCKETS, 2 ** max((_LARGEST_TABLE // num_labels).bit_length() - 1, 10))


@torch.inference_mode()
def _teacher_logits(
    model: FastBertForSequenceClassification, dataset: TokenisedDataset, batch_size: int, progress: Progress
) -> torch.Tensor:
    """Return the teacher's logits of every sample, float32 [n, N]; those of similar length share a batch."""
    logits = torch.empty(len(dataset), model.num_labels, dtype=torch.float32)
    done = 0
    for rows in torch.tensor(dataset.lengths).argsort(stable=True).split(batch_size):
        batch = dataset.collate([dataset[row] for row in rows.tolist()])
        inputs = {name: value.to(model.device) for name, value in batch.items()}
        logits[rows] = model(**inputs, speed=0.0).logits.cpu()
        done += len(rows)
        progress("answers of the teacher", done, len(dataset))
    return logits


def _features(dataset: TokenisedDataset, num_buckets: int) -> tuple[Any, npt.NDArray[np.int64]]:
    """Return x_i of all samples as a sparse matrix [n, F], and the F buckets that its columns are."""
    size, lengths = len(dataset), torch.tensor(dataset.lengths)
    ids = torch.tensor([token for row in range(size) for token in dataset[row]["input_ids"]])
    grams, per_text = hashed_grams(ids, lengths, num_buckets)
    ends = np.append(0, per_text.cumsum(0).numpy())
    scale = np.repeat((1 / np.sqrt(per_text.numpy())).astype(np.float32), per_text.numpy())
    features = sparse.csr_matrix((scale, grams.numpy(), ends), shape=(size, num_buckets))
    features.sum_duplicates()
    in_texts = np.bincount(features.indices, minlength=num_buckets)
    columns = np.flatnonzero(in_texts >= (2 if size >= _MANY_TEXTS else 1))
    return features[:, columns], columns


class _Fit:
    """The fits of one table.

    Args:
        features: sparse float32 [n, F].
        answers: the teacher's logits, float32 [n, N].
        multi_label: the classes are decisions of their own.
        seed: of which texts are held out.
    """

    def __init__(self, features: Any, answers: torch.Tensor, multi_label: bool, seed: int) -> None:
        self._answers, self._multi_label = answers, multi_label
        self._targets = probabilities_of(answers, multi_label).numpy()
        frequency = np.bincount(features.indices, minlength=features.shape[1])
        self._idf = (np.log((1 + len(answers)) / (1 + frequency)) + 1).astype(np.float32)
        self._features = features.copy()
        self._features.data *= self._idf[features.indices]
        self._order = np.random.default_rng(seed).permutation(len(answers))
        self.penalty = self.agreement = np.nan

    def run(self, progress: Progress) -> tuple[Floats, Floats]:
        """Choose the penalty, fit all texts, and return the table's rows [F, N] and the bias [N]."""
        held, rest = np.split(self._order, [max(1, len(self._order) // _HELD_OUT)])
        weights = np.zeros((self._features.shape[1] + 1, self._targets.shape[1]))
        best, lowest = weights, np.inf
        for done, penalty in enumerate(_PENALTIES):  # from the smoothest on, each from where the one before ended
            weights = self._minimum(rest, penalty, weights)
            logits = self._logits(self._features[held], weights)
            loss, _ = _cross_entropy(logits, self._targets[held], self._multi_label)
            progress("fits of exit zero", done + 1, len(_PENALTIES) + 1)
            if loss >= lowest:
                break
            lowest, best, self.penalty = loss, weights, penalty
            same = same_predictions(torch.from_numpy(logits), self._answers[held], self._multi_label)
            self.agreement = float(same.double().mean())
        fitted = self._minimum(np.arange(len(self._order)), self.penalty, best).astype(np.float32)
        progress("fits of exit zero", len(_PENALTIES) + 1, len(_PENALTIES) + 1)
        return fitted[:-1] * self._idf[:, None], fitted[-1]

    def _minimum(self, rows: npt.NDArray[np.int64], penalty: float, start: npt.NDArray[np.float64]) -> Any:
        """Return the V and, below it, the bias that are the best for some texts, float64 [F + 1, N]."""
        features, targets = self._features[rows], self._targets[rows]
        transposed = features.T.tocsr()

        def objective(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
            weights = flat.reshape(start.shape)
            loss, residual = _cross_entropy(self._logits(features, weights), targets, self._multi_label)
            gradient = np.empty_like(weights)
            gradient[:-1] = transposed @ residual + penalty * weights[:-1]
            gradient[-1] = residual.sum(axis=0)
            return loss + penalty / 2 * float(np.square(weights[:-1]).sum()), gradient.ravel()

        options = {"maxiter": _MOST_STEPS, "ftol": 1e-7, "gtol": 1e-7}
        found = optimize.minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        return found.x.reshape(start.shape)

    @staticmethod
    def _logits(features: Any, weights: npt.NDArray[np.float64]) -> Floats:
        narrow = weights.astype(np.float32)
        return np.asarray(features @ narrow[:-1] + narrow[-1])


def _cross_entropy(logits: Floats, targets: Floats, multi_label: bool) -> tuple[float, Floats]:
    """Return the mean cross-entropy of `logits` [n, N] under the teacher, and its gradient by them."""
    if multi_label:
        losses = np.logaddexp(0, logits) - targets * logits
        answers = special.expit(logits)
    else:
        log_answers = special.log_softmax(logits, axis=1)
        losses, answers = -targets * log_answers, np.exp(log_answers)
    return float(losses.sum(dtype=np.float64) / len(logits)), (answers - targets) / np.float32(len(logits))
