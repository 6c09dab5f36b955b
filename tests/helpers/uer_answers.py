"""What the models of the packages `fastbert` and `fastplm` answer to random texts, for tests of their hosts."""

from __future__ import annotations

import copy
import itertools
import random
import sys
from dataclasses import dataclass

import torch
from torch.nn import functional as F

import fastbert_kernels
from fastbert_kernels.hosts import uer_models
from helpers.accuracy import assert_accurate as assert_as_accurate
from helpers.accuracy import floor
from helpers.patched import only_the_fast_path
from helpers.rounding import rivals

SPEEDS = [0.05, 0.3, 0.5, 0.8, 0.95]
TOLERANCE = {None: 2e-5, torch.bfloat16: 0.08, torch.int8: 0.16}  # of uncertainties


def random_texts(count, seed=0):
    """Texts of 0 to more words than the model takes: Chinese, English, digits, and what no vocabulary has."""
    generator = random.Random(seed)
    pieces = [
        "好",
        "坏",
        "天",
        "气",
        "书",
        "很",
        "bank",
        "unaffable",
        "2024",
        "!",
        "é",
        "\U0001d54f",
        "\u200b",
        "[SEP]",
        "ქ",
    ]
    lengths = [0, 1, 2, 3, 5, 8, 13, 21, 34, 60]
    return ["".join(generator.choices([*pieces, " "], k=generator.choice(lengths))) for _ in range(count)]


@dataclass
class Unpatched:
    """What an unpatched model says behind every layer: uncertainty [texts, L], logits [texts, L, N]."""

    uncertainty: torch.Tensor
    logits: torch.Tensor

    @classmethod
    def ask(cls, model, inputs):
        rows, hooks = [], []
        for classifier in model.classifiers:
            hooks.append(classifier.register_forward_hook(lambda module, args, output: rows.append(output)))
        for arguments in inputs:
            model(*arguments, speed=0.0)
        for hook in hooks:
            hook.remove()
        logits = torch.stack(rows).view(len(inputs), len(model.classifiers), -1)
        # The function of the model's own package, asked for one text at a time as the package does.
        calc_uncertainty = sys.modules[type(model).__mro__[-3].__module__].calc_uncertainty
        options = {"N": model.args.uncertainty_N} if hasattr(model.args, "uncertainty_N") else {}
        flat = [
            calc_uncertainty(F.softmax(row[None], dim=1), labels_num=model.labels_num, **options)
            for row in logits.flatten(0, 1)
        ]
        return cls(torch.stack(flat).view(logits.shape[:2]), logits)

    def answers(self, model, speed):
        early = self.uncertainty < speed
        early[:, -1] = True
        layers = early.int().argmax(dim=1)
        labels = self.logits[torch.arange(len(layers)), layers].argmax(dim=1)
        return [
            (model.id2label[label], layer + 1) for label, layer in zip(labels.tolist(), layers.tolist(), strict=True)
        ]

    def at_speeds(self, model, speeds=SPEEDS):
        """Each Speed with the answers at it, and which of them are ties."""
        for speed in speeds:
            yield speed, self.answers(model, speed), self.ties(speed)

    def ties(self, speed, dtype=None):
        """Texts with an uncertainty at the Speed, or two labels that are as likely, in the precision of the encoder."""
        tolerance = TOLERANCE[dtype]
        top = F.softmax(self.logits, dim=2).topk(2, dim=2).values
        near = ((self.uncertainty - speed).abs() < tolerance) | (top[..., 0] - top[..., 1] < tolerance)
        return near.any(dim=1).tolist()


def assert_same_at_speeds(model, inputs, count_ties, one_by_one, at_most=0.02):
    """Compare labels and layers of texts or pairs, patched against unpatched, in batches and the first one by one.

    Args:
        at_most: the share of them that may be ties, in batches.

    Returns:
        The layers behind which they left.
    """

    def answers(count, speed):
        return [model(*texts, speed=speed) for texts in each[:count]]

    each = [given if isinstance(given, tuple) else (given,) for given in inputs]
    unpatched = Unpatched.ask(model, each)
    assert unpatched.answers(model, 0.5)[:20] == answers(20, 0.5)
    fastbert_kernels.patch(model)
    depths = set()
    for speed, want, ties in unpatched.at_speeds(model):
        with only_the_fast_path(model, model.kernel.encoder.transformer):
            count_ties(assert_same(model.predict(inputs, speed), want, ties, at_most=at_most), len(inputs))
            assert_same(answers(one_by_one, speed), want[:one_by_one], ties[:one_by_one], at_most=0.05)
        depths |= {layers for _, layers in want}
    return depths


@torch.inference_mode()
def assert_accurate(model, texts, encoders, decision):
    """Logits and uncertainties of engines are as near to those in float64 as those of the unpatched model.

    Args:
        encoders: of the unpatched `model`.
        decision: what an engine is asked with, for a Speed.
    """
    exact = Unpatched.ask(copy.deepcopy(model).double(), [(text,) for text in texts])
    plain = rivals(lambda: Unpatched.ask(model, [(text,) for text in texts]), answers=len(texts))
    samples = [uer_models.tokens_of(model, text) for text in texts]
    for encoder, speed in itertools.product(encoders, (0.0, 0.5)):
        results = uer_models.run_batch(model, encoder, samples, decision(model, speed))
        place = torch.arange(len(texts)), results.exit_layer - 1
        for got, name in ((results.logits, "logits"), (results.uncertainty, "uncertainty")):
            want, *theirs = (getattr(answers, name)[place] for answers in (exact, *plain))
            assert_as_accurate(got, want, theirs, least=floor(want, torch.float32))


def assert_same(got, want, ties, at_most=0.02):
    """Compare labels and layers, except at ties, and return the number of those."""
    assert len(got) == len(want) == len(ties)
    different = [number for number, pair in enumerate(zip(got, want, strict=True)) if pair[0] != pair[1]]
    wrong = [number for number in different if not ties[number]]
    message = f"{sum(ties)} ties among {len(ties)}, {len(different)} answers differ, beyond ties: {wrong}"
    assert not wrong and sum(ties) <= at_most * len(ties), message
    return sum(ties)


def assert_low_precision_is_close(model, texts, dtype, at_most):
    """At two Speeds; `at_most` is the share of texts that may be ties."""
    unpatched = Unpatched.ask(model, [(text,) for text in texts])
    fastbert_kernels.patch(model, dtype=dtype)
    for speed in (0.3, 0.8):
        want, ties = unpatched.answers(model, speed), unpatched.ties(speed, dtype)
        got = model.predict(texts, speed)
        assert_same(got, want, ties, at_most=at_most)
        assert sum(pair[0] != pair[1] for pair in zip(got, want, strict=True)) <= len(texts) / 10
