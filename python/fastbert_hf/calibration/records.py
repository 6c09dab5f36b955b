"""What every exit head answers on some samples: recorded once, so that no setting needs the model again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fastbert_hf.data import TokenisedDataset
from fastbert_hf.exits.calibrated_setting import check_score_change
from fastbert_hf.exits.criteria import MULTI_LABEL, ONE_OUTPUT
from fastbert_hf.exits.fingerprint import model_fingerprint
from fastbert_hf.files import write_atomically
from fastbert_hf.flops import ModelShape
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.outputs import predictions_of, same_predictions
from fastbert_hf.progress import Progress, no_progress

_METADATA_KEY = "fastbert_exit_records"


@dataclass(frozen=True)
class ExitRecords:
    """Logits of all E exit heads on n samples; every tensor is on the CPU, in the order of the data.

    An answer is right when it is the label; in records without labels, when it is the answer of full depth, so that all
    accuracies are shares of samples that agree with it. A score is when it is at most `max_score_change` from full
    depth's.

    Attributes:
        logits: float32 [n, E, N]; the last head is the teacher classifier.
        labels: int64 [n], class ids in 0..N-1, or `None`. Those of a multi-label model are not kept, a score has none.
        lengths: int64 [n], tokens of every sample, at least 1.
        shape: sizes of the model, which decide the FLOPs.
        fingerprint: `model_fingerprint` of the model; "" when the logits come from elsewhere.
        texts: `TokenisedDataset.fingerprint` of the samples; "" for logits from elsewhere and for a part of them.
        precision: of the encoder that answered, as "float32" or "int8"; `None` where that is not known.
        multi_label: the classes are decisions of their own, and an answer is a set of them.
        max_score_change: of a model with one output, see `with_max_score_change`; it is not saved.
        seen: bool [n], the samples whose texts the training of the model saw, which promise nothing; `None` where
            that is not known.

    Raises:
        ValueError: no sample, tensors whose dtypes or shapes are not those above, labels that the model does not know,
            or labels of a multi-label model or of one with one output.
    """

    logits: torch.Tensor
    labels: torch.Tensor | None
    lengths: torch.Tensor
    shape: ModelShape
    fingerprint: str = ""
    texts: str = ""
    precision: str | None = None
    multi_label: bool = False
    max_score_change: float | None = None
    seen: torch.Tensor | None = None

    def __post_init__(self) -> None:
        size, num_labels = len(self.lengths), self.shape.num_labels
        wanted = {
            "logits": (self.logits, torch.float32, (size, len(self.exit_layers), num_labels)),
            "labels": (self.labels, torch.int64, (size,)),
            "lengths": (self.lengths, torch.int64, (size,)),
            "seen": (self.seen, torch.bool, (size,)),
        }
        for name, (tensor, dtype, shape) in wanted.items():
            if tensor is not None and (tensor.dtype != dtype or tuple(tensor.shape) != shape):
                raise ValueError(
                    f"the {name} of exit records must be {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}"
                )
        if size == 0:
            raise ValueError("nothing to calibrate on: there are no samples")
        if self.labels is not None and self.multi_label:
            raise ValueError("records of a multi-label model take no labels: answers are compared with full depth's")
        if self.labels is not None and self.gives_scores:
            raise ValueError("records of a model with one output take no labels: scores are compared with full depth's")
        if self.labels is not None:
            check_labels(self.labels, num_labels)
        if bool((self.lengths < 1).any()):
            raise ValueError("the lengths of exit records must be at least 1")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """Return the E layers, 1-based and ascending, that have an exit head."""
        return self.shape.exit_layers or tuple(range(1, self.shape.num_layers + 1))

    @property
    def problem_type(self) -> str | None:
        """Return that of the model's configuration, which says by which criteria samples may leave."""
        if self.gives_scores:
            return ONE_OUTPUT
        return MULTI_LABEL if self.multi_label else None

    @property
    def gives_scores(self) -> bool:
        """Return True for a model with one output, which is a score and no class."""
        return self.shape.num_labels == 1 and not self.multi_label

    @property
    def student_layers(self) -> tuple[int, ...]:
        """Return the layers of the student classifiers: all exit layers but the last."""
        return self.exit_layers[:-1]

    def with_max_score_change(self, distance: float) -> ExitRecords:
        """Return the same, in which a score is another answer than full depth's when it is further from it than this.

        Args:
            distance: above 0, on the scale of the score.

        Raises:
            ValueError: a model with classes, or a distance out of range.
        """
        if not self.gives_scores:
            raise ValueError(
                f"max_score_change is for models with one output, a score, and this one has {self.shape.num_labels} "
                "classes; leave it out"
            )
        check_score_change(distance)
        return replace(self, max_score_change=distance)

    def check_comparable(self) -> None:
        """Raise `ValueError` where nobody said from where on a score is another answer."""
        if self.gives_scores and self.max_score_change is None:
            raise ValueError(
                "this model has one output, a score, and no label that could differ from full depth's: say how far a "
                "score may be from it, max_score_change=0.1 (fastbert calibrate --max-score-change 0.1)"
            )

    def check_unseen(self) -> None:
        """Raise `ValueError` where the training of the model saw some of the samples, so that they promise nothing."""
        if self.seen is not None and (number := int(self.seen.sum())):
            rest = "" if number == len(self) else f", or on records.unseen() ({len(self) - number:,} stay)"
            raise ValueError(
                f"{number:,} of {len(self):,} samples were seen in training, so nothing can be guaranteed by them; "
                f"calibrate on samples of their own{rest}"
            )

    def unseen(self) -> ExitRecords:
        """Return the samples that the training of the model did not see, as records of their own."""
        return self if self.seen is None else self.rows(~self.seen)

    @property
    def known_labels(self) -> torch.Tensor:
        """Return the labels; raise `ValueError` where there are none."""
        if self.labels is None:
            raise ValueError("the records have no labels, which this needs; record labelled samples")
        return self.labels

    @cached_property
    def predictions(self) -> torch.Tensor:
        """Return `predictions_of` every exit head, int64 [n, E], or of a multi-label model bool [n, E, N]; of a model
        with one output its scores, float32 [n, E]."""
        return self.logits[..., 0] if self.gives_scores else predictions_of(self.logits, self.multi_label)

    @cached_property
    def right(self) -> npt.NDArray[np.bool_]:
        """Return whether the answer of every exit head is right, bool [n, E].

        Raises:
            ValueError: as of `check_comparable`.
        """
        self.check_comparable()
        if self.max_score_change is not None:
            right = (self.score_changes <= self.max_score_change).numpy()
            right[:, -1] = True  # also where it is not finite, from which then every other answer differs
            return right
        if self.labels is not None:
            return (self.predictions == self.labels[:, None]).numpy()
        return same_predictions(self.logits, self.logits[:, -1:], self.multi_label).numpy()

    @cached_property
    def score_changes(self) -> torch.Tensor:
        """Return how far the scores of every exit head are from full depth's, float32 [n, E]; NaN where one is."""
        scores = self.logits[..., 0]
        return (scores - scores[:, -1:]).abs()

    @property
    def full_depth_accuracy(self) -> float:
        """Return the part of the samples that the teacher classifier predicts right; 1 without labels."""
        return float(self.right[:, -1].mean())

    def without_labels(self) -> ExitRecords:
        """Return the same for which an answer is right when it is that of full depth."""
        return self if self.labels is None else replace(self, labels=None)

    def rows(self, index: torch.Tensor) -> ExitRecords:
        """Return the samples at `index`, int64 [m] (repeats allowed) or bool [n], as records of their own."""
        return ExitRecords(
            self.logits[index],
            None if self.labels is None else self.labels[index],
            self.lengths[index],
            self.shape,
            self.fingerprint,
            precision=self.precision,
            multi_label=self.multi_label,
            max_score_change=self.max_score_change,
            seen=None if self.seen is None else self.seen[index],
        )

    def save(self, path: Path) -> None:
        """Write a safetensors file; a fault leaves the old file or none."""
        description = {
            "shape": asdict(self.shape),
            "fingerprint": self.fingerprint,
            "texts": self.texts,
            "precision": self.precision,
            "multi_label": self.multi_label,
        }
        columns = {"logits": self.logits, "labels": self.labels, "lengths": self.lengths, "seen": self.seen}
        tensors = {name: tensor.contiguous() for name, tensor in columns.items() if tensor is not None}
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
                tensors = {name: file.get_tensor(name) for name in ("logits", "lengths")}
                labels, seen = (
                    file.get_tensor(name) if name in set(file.keys()) else None for name in ("labels", "seen")
                )
            layers = description["shape"].pop("exit_layers")
            shape = ModelShape(**description["shape"], exit_layers=None if layers is None else tuple(layers))
            origin = {name: description[name] for name in ("fingerprint", "texts")}
            # Not in older files.
            origin |= {name: description[name] for name in ("precision", "multi_label") if name in description}
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} holds no exit records ({error}); record them again") from error
        return cls(**tensors, labels=labels, seen=seen, shape=shape, **origin)


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
        model: patched or not, run in eval mode and left in the mode it was in. The records keep the precision in which
            it answers.
        dataset: tokenised texts with or without labels, none of them divided into passages. Labels of a multi-label
            model are not kept, nor are those of one with one output.
        batch_size: samples per forward pass.
        progress: is told of the step "every exit of every text" after every batch.

    Raises:
        ValueError: an empty data set, one with passages, or labels that the model does not know.
    """
    if len(dataset) == 0:
        raise ValueError("nothing to calibrate on: the data set is empty")
    if dataset.has_passages:
        raise ValueError(
            "some texts were divided into passages, whose answers are put together, and what is recorded is one answer "
            "for each text: tokenise them without stride, or leave out the long ones"
        )
    lengths = torch.tensor(dataset.lengths)
    labels = None
    if dataset.label_ids is not None and not (model.config.multi_label or model.config.gives_scores):
        labels = torch.tensor(dataset.label_ids)
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
        multi_label=model.config.multi_label,
        seen=torch.from_numpy(model.seen_texts.among_keys(dataset.text_keys).any),
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
