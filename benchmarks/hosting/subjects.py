"""A model of every host, all of one size, and how each is asked.

The models that are told by their structure are those of the hosts' tests. Where these answer in a way that is simpler
than that of the published code, which lets samples leave, they get a forward here in which samples leave.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BertConfig

import fastbert_kernels
from fastbert_hf import FastBertConfig, FastBertForSequenceClassification
from fastbert_hf.flops import ModelShape
from fastbert_kernels.hosts import PooledHead

LONGEST, VOCABULARY, LABELS = 128, 1000, 3


@dataclass(frozen=True)
class Size:
    layers: int
    width: int
    heads: int
    texts: int

    def of_bert(self) -> dict[str, Any]:
        """Arguments of `BertConfig`."""
        return {
            "vocab_size": VOCABULARY,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": 4 * self.width,
            "max_position_embeddings": LONGEST,
        }

    def shape(self, **changes: Any) -> ModelShape:
        values: dict[str, Any] = {
            "hidden_size": self.width,
            "intermediate_size": 4 * self.width,
            "num_layers": self.layers,
            "head_hidden_size": 128,
            "num_labels": LABELS,
            **changes,
        }
        return ModelShape(**values)


SIZES = {
    "MiniLM-L6": Size(layers=6, width=384, heads=12, texts=64),
    "tiny": Size(layers=4, width=32, heads=4, texts=12),
}


class Answers(NamedTuple):
    """Of one call: what the head that answered said [B, N] (logits or probabilities), or only labels [B] and layers."""

    outputs: Tensor | None = None
    labels: list[int] | None = None
    layers: list[int] | None = None


@dataclass(frozen=True)
class Subject:
    """A host's model and how it is asked.

    Attributes:
        model: unpatched, in eval mode.
        heads: its exit heads, first to last.
        shape: for the FLOPs.
        request: from token ids of some texts to the input of one call.
        ask: (model, input, Speed) -> answers; Speed 0 is full depth.
        ask_patched: the same for a batch of the patched model, where that is another method.
        batches: whether the unpatched model takes several texts.
        batches_leave: whether these leave one by one.
        probabilities: whether the outputs are probabilities instead of logits.
        undecided: what answers who is sure nowhere: the last of `heads`, None, or else a further head, or zeros.
        note: for the table.
    """

    model: nn.Module
    heads: Sequence[nn.Module]
    shape: ModelShape
    request: Callable[[list[list[int]]], Any]
    ask: Callable[[Any, Any, float], Answers]
    ask_patched: Callable[[Any, Any, float], Answers] | None = None
    batches: bool = True
    batches_leave: bool = True
    probabilities: bool = False
    undecided: nn.Module | str | None = None
    note: str = ""


def spread(model: nn.Module, last: str) -> nn.Module:
    """Random weights large enough for uncertainties all over [0, 1]; `last` is in the name of a head's last layer."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * (3.0 if last in name else 1.0) / parameter.shape[-1] ** 0.5)
    return model


def padded(texts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, L], padded with 0 to the longest text."""
    longest = max(map(len, texts))
    ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
    return ids, (ids != 0).long()


def _of_package(name: str, size: Size, scope: ExitStack, folder: Path) -> Subject:
    from doubles.pypi import imported, register_configuration, spread_weights

    package = scope.enter_context(imported(name, folder))
    kernel = register_configuration(
        package,
        folder,
        emb_size=size.width,
        hidden_size=size.width,
        feedforward_size=4 * size.width,
        heads_num=size.heads,
        layers_num=size.layers,
        hidden_act="gelu",
    )
    model = package.FastBERT(kernel, labels=list(range(LABELS)), seq_length=LONGEST, is_load=False).eval()
    spread_weights(model)
    characters = [word for word in model.vocab.w2i if len(word) == 1 and "\u4e00" <= word <= "\u9fff"][:500]

    def request(texts: list[list[int]]) -> list[str]:
        """As long, with the [CLS] that comes in front."""
        return ["".join(random.Random(str(text)).choices(characters, k=len(text) - 1)) for text in texts]

    def ask(model: Any, texts: list[str], speed: float) -> Answers:
        labels, layers = zip(*(model(text, speed=speed) for text in texts), strict=True)
        return Answers(labels=list(labels), layers=list(layers))

    def predict(model: Any, texts: list[str], speed: float) -> Answers:
        labels, layers = zip(*model.predict(texts, speed), strict=True)
        return Answers(labels=list(labels), layers=list(layers))

    return Subject(
        model,
        list(model.classifiers),
        size.shape(),
        request,
        ask,
        predict,
        batches=False,
        note="takes text, which it pads to 128 tokens; tokenisation is in the times",
    )


def _fastbert(size: Size, scope: ExitStack, folder: Path) -> Subject:
    return _of_package("fastbert", size, scope, folder)


def _fastplm(size: Size, scope: ExitStack, folder: Path) -> Subject:
    return _of_package("fastplm", size, scope, folder)


def _script(size: Size, scope: ExitStack, folder: Path) -> Subject:
    from doubles.pypi import imported
    from doubles.script_classifier import ScriptClassifier

    scope.enter_context(imported("fastbert", folder))
    model = ScriptClassifier(
        width=size.width, heads=size.heads, depth=size.layers, vocabulary=VOCABULARY, labels=LABELS, narrow=128
    ).eval()

    def ask(model: Any, request: tuple[Tensor, Tensor], speed: float) -> Answers:
        model.threshold = speed
        return Answers(model(request[0], None, request[1], fast=True)[1])

    return Subject(model, list(model.classifiers), size.shape(), padded, ask)


def _bitvoyage(size: Size, scope: ExitStack, folder: Path) -> Subject:
    from doubles.branchy_bert import BranchyBert, Sizes

    class Leaving(BranchyBert):
        def infer(self, input_ids: Tensor, attention_mask: Tensor, _: None, inference_speed: float) -> Any:
            hidden = self.embeddings(input_ids, torch.zeros_like(input_ids))
            blocked = (1.0 - attention_mask[:, None, None].float()) * -10000.0
            answers, left = hidden.new_zeros(len(input_ids), LABELS), torch.arange(len(input_ids))
            sure_of = torch.zeros_like(answers)
            ran = 0
            for layer, head in zip(self.graph.layers, self.graph.layer_classifiers.values(), strict=True):
                ran += 1
                hidden = layer(hidden, blocked)
                probabilities = head(hidden).softmax(dim=-1)
                uncertainty = entropy(probabilities) / torch.tensor(LABELS).log()
                sure = uncertainty < inference_speed
                answers[left[sure]] = probabilities[sure]
                sure_of[left[sure]] = uncertainty[sure][:, None]
                hidden, blocked, left = hidden[~sure], blocked[~sure], left[~sure]
                if len(left) == 0:
                    break
            return answers, ran - 1, sure_of

    sizes = Sizes(VOCABULARY, LONGEST, size.width, size.heads, 4 * size.width, 128, size.layers, LABELS)
    model = Leaving(sizes=sizes).eval()
    model.fastbert_zero_undecided = True

    def ask(model: Any, request: tuple[Tensor, Tensor], speed: float) -> Answers:
        return Answers(model(request[0], attention_mask=request[1], inference=True, inference_speed=speed)[0])

    return Subject(
        model,
        list(model.graph.layer_classifiers.values()),
        size.shape(),
        padded,
        ask,
        probabilities=True,
        undecided="zeros",
        note="host path; padding is kept, as the heads see it",
    )


def _deebert(size: Size, scope: ExitStack, folder: Path) -> Subject:
    from doubles.highway_bert import HighwayModel

    class Leaving(HighwayModel):
        def answer(self, input_ids: Tensor, attention_mask: Tensor, *others: Any) -> Any:
            """One text leaves where it is sure; of several none does: the published code takes one."""
            encoder = self.bert.encoder
            hidden = self.bert.embeddings(input_ids=input_ids)
            blocked = (1.0 - attention_mask[:, None, None].float()) * torch.finfo(hidden.dtype).min
            for layer, highway, threshold in zip(
                encoder.layer, encoder.highway, encoder.early_exit_entropy, strict=True
            ):
                hidden = layer(hidden, blocked)
                logits = highway(hidden)
                if len(input_ids) == 1 and entropy(logits.softmax(dim=-1)).item() < threshold:
                    return logits, (), ()
            return self.classifier(self.bert.pooler(hidden)), (), ()

    model = Leaving(**size.of_bert()).eval()
    nats = float(torch.tensor(LABELS).log())

    def ask(model: Any, request: tuple[Tensor, Tensor], speed: float) -> Answers:
        model.set_thresholds(*[speed * nats if speed else -1] * size.layers)
        return Answers(model(request[0], attention_mask=request[1])[0])

    return Subject(
        model,
        list(model.bert.encoder.highway),
        size.shape(head_type="pooled", head_hidden_size=size.width),
        padded,
        ask,
        batches_leave=False,
        undecided=model.classifier,
        note="the published code takes one text at a time; in batches it runs to full depth here",
    )


class OwnModel(nn.Module):
    """For `register_host`: layers that normalise first, and a classifier of the first token behind each."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, size.width), nn.Embedding(LONGEST, size.width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                size.width, size.heads, 4 * size.width, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(size.layers)
        )
        self.classifiers = nn.ModuleList(nn.Linear(size.width, LABELS) for _ in range(size.layers))

    def embed(self, ids: Tensor) -> Tensor:
        return self.words(ids) + self.places.weight[: ids.shape[1]]

    def forward(self, ids: Tensor, mask: Tensor, speed: float | None = None) -> Tensor:
        hidden, padding = self.embed(ids), mask == 0
        answers, left = hidden.new_empty(len(ids), LABELS), torch.arange(len(ids))
        for block, classifier in zip(self.blocks, self.classifiers, strict=True):
            hidden = block(hidden, src_key_padding_mask=padding)
            answers[left] = logits = classifier(hidden[:, 0])
            stays = entropy(logits.softmax(dim=-1)) / torch.tensor(LABELS).log() >= (speed or 0.0)
            hidden, padding, left = hidden[stays], padding[stays], left[stays]
            if len(left) == 0:
                break
        return answers


def _registered(size: Size, scope: ExitStack, folder: Path) -> Subject:
    registration = fastbert_kernels.register_host(
        OwnModel,
        layers=lambda model: model.blocks,
        heads=lambda model: [PooledHead([classifier]) for classifier in model.classifiers],
        call_layer=lambda block, hidden, valid: block(hidden, src_key_padding_mask=~valid),
        forward=lambda model, run, ids, mask, speed: run(model.embed(ids), mask != 0, speed).logits,
    )
    scope.callback(fastbert_kernels.unregister_host, registration)
    torch.manual_seed(0)
    model = spread(OwnModel(size), "classifiers").eval()
    return Subject(
        model,
        list(model.classifiers),
        size.shape(head_type="pooled", head_num_dense_layers=0),
        padded,
        lambda model, request, speed: Answers(model(*request, speed or None)),
        note="host path; layers of PyTorch, which have a fast path of their own",
    )


def _fastbert_hf(size: Size, scope: ExitStack, folder: Path) -> Subject:
    torch.manual_seed(0)
    config = FastBertConfig(BertConfig(**size.of_bert()), num_labels=LABELS)
    model = spread(FastBertForSequenceClassification(config), "classifier").eval()
    return Subject(
        model,
        list(model.heads),
        size.shape(),
        padded,
        lambda model, request, speed: Answers(model(*request, speed=speed or None).logits),
    )


def entropy(probabilities: Tensor) -> Tensor:
    """In nats, over the last dimension."""
    return torch.special.entr(probabilities).sum(dim=-1)


@dataclass(frozen=True)
class HostEntry:
    build: Callable[[Size, ExitStack, Path], Subject]
    needs: str | None = None  # a package


HOSTS = {
    "fastbert": HostEntry(_fastbert, "fastbert"),
    "fastplm": HostEntry(_fastplm, "fastplm"),
    "run_fastbert.py": HostEntry(_script, "fastbert"),
    "BitVoyage": HostEntry(_bitvoyage),
    "DeeBERT": HostEntry(_deebert),
    "registered": HostEntry(_registered),
    "fastbert_hf": HostEntry(_fastbert_hf),
}


def missing_package(name: str) -> str | None:
    """The package that this host's model needs and that is not installed."""
    package = HOSTS[name].needs
    return package if package is not None and importlib.util.find_spec(package) is None else None
