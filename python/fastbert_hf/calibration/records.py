"""What every exit head answers on labelled samples: recorded once, so that no setting needs the model again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.fingerprint import model_fingerprint
from fastbert_hf.files import write_atomically
from fastbert_hf.flops import ModelShape
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.progress import Progress, no_progress

_METADATA_KEY = "fastbert_exit_records"


@dataclass(frozen=True)
class ExitRecords:
    """Logits of all E exit heads on n labelled samples; every tensor is on the CPU, in the order of the data.

    Attributes:
        logits: float32 [n, E, N]; the last head is the teacher classifier.
        labels: int64 [n], class ids in 0..N-1.
        lengths: int64 [n], tokens of every sample, at least 1.
        shape: sizes of the model, which decide the FLOPs.
        fingerprint: `model_fingerprint` of the model; "" when the logits come from elsewhere.
        texts: `TokenisedDataset.fingerprint` of the samples; "" for logits from elsewhere and for a part of them.
        precision: of the encoder that answered, as "float32" or "int8"; `None` where that is not known.

    Raises:
        ValueError: no sample, tensors whose dtypes or shapes are not those above, or labels that the model does not
            know.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    lengths: torch.Tensor
    shape: ModelShape
    fingerprint: str = ""
    texts: str = ""
    precision: str | None = None

    def __post_init__(self) -> None:
        size, num_labels = len(self.labels), self.shape.num_labels
        wanted = {
            "logits": (self.logits, torch.float32, (size, len(self.exit_layers), num_labels)),
            "labels": (self.labels, torch.int64, (size,)),
            "lengths": (self.lengths, torch.int64, (size,)),
        }
        for name, (tensor, dtype, shape) in wanted.items():
            if tensor.dtype != dtype or tuple(tensor.shape) != shape:
                raise ValueError(
                    f"the {name} of exit records must be {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
                )
        if size == 0:
            raise ValueError("nothing to calibrate on: there are no samples")
        check_labels(self.labels, num_labels)
        if bool((self.lengths < 1).any()):
            raise ValueError("the lengths of exit records must be at least 1")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """Return the E layers, 1-based and ascending, that have an exit head."""
        return self.shape.exit_layers or tuple(range(1, self.shape.num_layers + 1))

    @property
    def student_layers(self) -> tuple[int, ...]:
        """Return the layers of the student classifiers: all exit layers but the last."""
        return self.exit_layers[:-1]

    @cached_property
    def predictions(self) -> torch.Tensor:
        """Return the class with the largest logit at every exit head, int64 [n, E]."""
        return self.logits.argmax(dim=-1)

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        """Return whether the prediction of every exit head is the label, bool [n, E]."""
        return (self.predictions == self.labels[:, None]).numpy()

    @property
    def full_depth_accuracy(self) -> float:
        """Return the part of the samples that the teacher classifier predicts right."""
        return float(self.right[:, -1].mean())

    def rows(self, index: torch.Tensor) -> ExitRecords:
        """Return the samples at `index`, int64 [m] (repeats allowed) or bool [n], as records of their own."""
        return ExitRecords(
            self.logits[index],
            self.labels[index],
            self.lengths[index],
            self.shape,
            self.fingerprint,
            precision=self.precision,
        )

    def save(self, path: Path) -> None:
        """Write a safetensors file; a fault leaves the old file or none."""
        description = {
            "shape": asdict(self.shape),
            "fingerprint": self.fingerprint,
            "texts": self.texts,
            "precision": self.precision,
        }
        tensors = {"logits": self.logits, "labels": self.labels, "lengths": self.lengths}
        tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(path, save(tensors, metadata={_METADATA_KEY: json.dumps(description)}))

    @classmethod
    def load(cls, path: Path) -> ExitRecords:
        """Read what `save` wrote.

        Raises:
            ValueError: the file holds something else.
            FileNotFoundError: there is no such file.
        """
        try:
            with safe_open(path, framework="pt") as file:
                description = json.loads((file.metadata() or {})[_METADATA_KEY])
                tensors = {name: file.get_tensor(name) for name in ("logits", "labels", "lengths")}
            layers = description["shape"].pop("exit_layers")
            shape = ModelShape(**description["shape"], exit_layers=None if layers is None else tuple(layers))
            origin = {name: description[name] for name in ("fingerprint", "texts")}
            origin["precision"] = description.get("precision")  # not in older files
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} holds no exit records ({error}); record them again") from error
        return cls(**tensors, shape=shape, **origin)


@torch.inference_mode()
def record_exits(
    model: FastBertForSequenceClassification,
    dataset: TokenisedDataset,
    batch_size: int = 32,
    progress: Progress = no_progress,
) -> ExitRecords:
    """Run `model` once over `dataset`, on the device it is on, with every exit head on every sample.

    Samples of similar length share a batch, so that little of it is padding.

    Args:
        model: a single-label model, patched or not, run in eval mode and left in the mode it was in. The records keep
            the precision in which it answers.
        dataset: tokenised texts with labels, none of them divided into passages.
        batch_size: samples per forward pass.
        progress: is told of the step "every exit of every text" after every batch.

    Raises:
        ValueError: an empty data set, one without labels or with passages, labels that the model does not know, or a
            multi-label model.
    """
    if model.config.multi_label:
        raise ValueError(
            "calibration is for models that give a sample exactly one class; this one is multi-label, choose its "
            "Speed by evaluating a few"
        )
    if len(dataset) == 0:
        raise ValueError("nothing to calibrate on: the data set is empty")
    if dataset.label_ids is None:
        raise ValueError("nothing to compare with: the data set has no labels")
    if dataset.has_passages:
        raise ValueError(
            "some texts were divided into passages, whose answers are put together, and what is recorded is one answer "
            "for each text: tokenise them without stride, or leave out the long ones"
        )
    labels, lengths = torch.tensor(dataset.label_ids), torch.tensor(dataset.lengths)
    check_labels(labels, model.num_labels)
    logits = torch.empty(len(dataset), len(model.heads), model.num_labels, dtype=torch.float32)
    done = 0
    was_training = model.training
    model.eval()
    try:
        for rows in lengths.argsort(stable=True).split(batch_size):
            batch = dataset.collate([dataset[row] for row in rows.tolist()])
            inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
            logits[rows] = model(**inputs, speed=0.0, output_all_exits=True).all_logits.cpu()
            done += len(rows)
            progress("every exit of every text", done, len(dataset))
    finally:
        model.train(was_training)
    return ExitRecords(
        logits=logits,
        labels=labels,
        lengths=lengths,
        shape=ModelShape.from_config(model.config),
        fingerprint=model_fingerprint(model),
        texts=dataset.fingerprint,
        precision=_precision_of(model),
    )


def _precision_of(model: FastBertForSequenceClassification) -> str:
    # Whoever accelerates a model may have added the method.
    accelerated = getattr(model, "inference_precision", None)
    return str(model.dtype).removeprefix("torch.") if accelerated is None else accelerated()


def check_labels(labels: torch.Tensor, num_labels: int) -> None:
    """Raise `ValueError` naming the samples whose class id is not in 0..N-1."""
    rows = ((labels < 0) | (labels >= num_labels)).nonzero().flatten().tolist()
    if rows:
        shown = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise ValueError(
            f"{len(rows)} sample(s) have a label that the model does not know (position(s) {shown}); its class ids are "
            f"0..{num_labels - 1}: calibrate on data with the model's own classes"
        )


def check_several_classes(labels: torch.Tensor) -> None:
    """Raise `ValueError` when all `labels` [n] are the same: accuracy on one class says nothing about the others."""
    classes = labels.unique()
    if len(classes) == 1:
        raise ValueError(
            f"all {len(labels)} samples have the class {int(classes)}: what is lost on the other classes cannot be "
            "seen; calibrate on samples of every class"
        )
