"""What is served: models, the texts that clients send, and where these leave."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, PreTrainedTokenizerBase

import fastbert_kernels
from adopting.backbones import Backbone, open_models
from adopting.models import TASKS, Texts, adopted, fine_tuned, packaged_backbone, tokenised
from comparing.workload import SHAPES, Samples, planned_exits, reference_answers, set_exit_levels
from fastbert_hf import FastBertForSequenceClassification, adopt, predict
from fastbert_hf.adoption import export_classifier
from fastbert_hf.calibration import Objective, calibrate, record_exits
from fastbert_kernels.engine.layer_cost import STEP_SECONDS, LayerCost
from fastbert_kernels.engine.rule import Rule
from fastbert_kernels.patching import patch_of
from harness import MIXED_LENGTHS
from serving.simulation import Machine, Text

LONGEST = 128
MEAN_DEPTH = 4.0  # of 12 layers, where exits are planned
MAX_DISAGREEMENT = 0.01
_PROBED_TOKENS = (16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Subject:
    """A model in the forms that the contestants load, and the texts of its clients.

    Attributes:
        name: for tables.
        fastbert: folder of the FastBERT, with its tokenizer.
        plain: folder of the classifier of Transformers that it is at full depth, with its tokenizer.
        texts: that clients send.
        speeds: of each text; None where texts leave by the model's calibrated setting.
    """

    name: str
    fastbert: Path
    plain: Path
    texts: list[str]
    speeds: list[float] | None


@dataclass(frozen=True)
class Facts:
    """What is known of a subject before it is served.

    Attributes:
        texts: tokens and exit layers, in the order of the subject's texts.
        labels: of each text where it leaves.
        full_depth_labels: of each text at full depth, in the same precision.
        machine: what a layer costs, without the server around it.
    """

    texts: list[Text]
    labels: list[str]
    full_depth_labels: list[str]
    machine: Machine


def trained(folder: Path, data: Path, run: Path, task: str, dtype: Any) -> Subject:
    """Return a trained 6-layer MiniLM, adopted from a fine-tuned classifier and calibrated without labels.

    Args:
        folder: for the calibrated model.
        data: as of `adopted_classifiers.py`, with a folder of the task.
        run: keeps what is trained, and has it where it was before.
        task: a key of `adopting.models.TASKS`.
        dtype: in which it is served.
    """
    texts, backbone = Texts.read(data / task), Backbone.find()
    kept = open_models(run, task, backbone, texts, TASKS[task])
    classifier = fine_tuned(kept / "classifier", backbone.folder, texts.labelled, TASKS[task], backbone.learning_rate)
    source, _ = adopted(kept / "adopted", classifier, texts.traffic, TASKS[task])
    model: Any = FastBertForSequenceClassification.from_pretrained(source).eval()
    patched = fastbert_kernels.patch(copy.deepcopy(model), dtype=dtype)
    records = record_exits(patched, tokenised(texts.calibration, source, TASKS[task]))
    model.calibrated_setting = calibrate(records, Objective(max_disagreement=MAX_DISAGREEMENT))
    _save(folder, model, AutoTokenizer.from_pretrained(source))
    return Subject(f"6 layers of 384, trained on {task}", folder, classifier, texts.new.texts, None)


def planned(folder: Path, shape: str, texts: list[str], dtype: Any) -> Subject:
    """Return a model with random weights whose texts leave at layers planned beforehand (`comparing.workload`), each by
    the Speed that its client sends.

    Args:
        folder: for the models.
        shape: a key of `comparing.workload.SHAPES`.
        texts: that clients send.
        dtype: in which it is served, and for whose uncertainties the Speeds are chosen.
    """
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(packaged_backbone())
    model: Any = adopt(BertForSequenceClassification(BertConfig(**SHAPES[shape])).eval())
    samples = Samples(tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"])
    set_exit_levels(model, Samples(samples.token_ids[:32]))
    patched = fastbert_kernels.patch(copy.deepcopy(model), dtype=dtype)
    uncertainty = reference_answers(patched, samples, batch=16).uncertainty
    assert uncertainty is not None
    speeds = planned_exits(uncertainty, MEAN_DEPTH).speed.tolist()
    _save(folder / "fastbert", model, tokenizer)
    _save(folder / "plain", export_classifier(model), tokenizer)
    layers, width = SHAPES[shape]["num_hidden_layers"], SHAPES[shape]["hidden_size"]
    return Subject(f"{layers} layers of {width}, random weights", folder / "fastbert", folder / "plain", texts, speeds)


def synthetic_texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of random words, one token each, whose lengths are those of `harness.MIXED_LENGTHS`."""
    tokenizer = AutoTokenizer.from_pretrained(packaged_backbone())
    words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and len(word) > 3)
    draw = torch.Generator().manual_seed(seed)
    shares = (torch.rand(count, generator=draw) * 0.998 + 0.001).clamp(1e-3, 1 - 1e-3)
    lengths = (MIXED_LENGTHS.icdf(shares).long() - tokenizer.num_special_tokens_to_add()).clamp(1, LONGEST - 2)
    return [
        " ".join(words[place] for place in torch.randint(len(words), (length,), generator=draw).tolist())
        for length in lengths.tolist()
    ]


def facts_of(subject: Subject, dtype: Any) -> Facts:
    """Return where the texts of a subject leave, and what its layers cost on this machine."""
    model: Any = FastBertForSequenceClassification.from_pretrained(subject.fastbert).eval()
    tokenizer = AutoTokenizer.from_pretrained(subject.fastbert)
    fastbert_kernels.patch(model, dtype=dtype)
    speed = None if subject.speeds is None else torch.tensor(subject.speeds)
    answers = predict(model, tokenizer, subject.texts, speed=speed, max_length=LONGEST, progress=False)
    whole = predict(model, tokenizer, subject.texts, speed=0.0, max_length=LONGEST, progress=False)
    lengths = [len(ids) for ids in tokenizer(subject.texts, truncation=True, max_length=LONGEST)["input_ids"]]
    names = model.config.id2label
    depth = model.config.num_hidden_layers
    asked = range(1, depth) if model.calibrated_setting is None else model.calibrated_setting.rule.layers
    texts = [Text(*numbers) for numbers in zip(lengths, answers.exit_layer.tolist(), strict=True)]
    return Facts(
        texts,
        [names[row] for row in answers.logits.argmax(dim=-1).tolist()],
        [names[row] for row in whole.logits.argmax(dim=-1).tolist()],
        Machine(measured_cost(model, sum(lengths) // len(lengths)), (*asked, depth)),
    )


@torch.no_grad()
def measured_cost(model: Any, length: int) -> LayerCost:
    """Return what a step of a pool through the first layer and its head costs on this machine, by tokens.

    Args:
        model: patched.
        length: tokens of a text.
    """
    from fastbert_hf.timing import time_interleaved

    state = patch_of(model)
    encoder, host = state.current(model), state.host
    assert host.pack is not None and host.probe is not None
    draw = torch.Generator().manual_seed(0)
    batches = {}
    for tokens in _PROBED_TOKENS:
        lengths = [min(length, tokens)] * max(1, round(tokens / length))
        batches[sum(lengths)] = host.pack(model, encoder, *host.probe(model, lengths, draw), speed=1e-6)

    def step(batch: Any) -> None:
        encoder.advance(encoder.start(copy.copy(batch), Rule()), 1)

    calls = {tokens: [lambda batch=batch: step(batch)] for tokens, batch in sorted(batches.items())}
    times = time_interleaved(calls, torch.device("cpu"), 15, warmups=1, shuffle=True)
    return LayerCost(tuple(calls), tuple(times[tokens].median + STEP_SECONDS for tokens in calls))


def _save(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
