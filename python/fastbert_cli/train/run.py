"""`fastbert train`: from labelled texts and a pretrained backbone to a finished FastBERT."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from fastbert_cli.data_table import DataTable
from fastbert_cli.errors import CommandError, faults_explained
from fastbert_cli.exit_zero import fit_exit_zero
from fastbert_cli.models import check_max_length, make_model
from fastbert_cli.output_folder import OutputFolder
from fastbert_cli.texts import read_labelled, read_unlabelled
from fastbert_cli.train.baseline import bag_of_words_row
from fastbert_cli.train.command import TrainConfig
from fastbert_cli.train.inputs import has_unlabelled
from fastbert_cli.training import command_to_go_on
from fastbert_hf.data import ClassificationData, TextData, check_passages, join_texts
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import RunOptions, StillRising, TrainingResult, distill, fine_tune_in_rounds, train_jointly
from fastbert_hf.training.checks import check_vocabulary
from fastbert_hf.training.class_weights import class_weights_of
from fastbert_hf.training.run_folder import RUN_FILE


@dataclass(frozen=True)
class TrainData:
    """What a run learns from.

    Attributes:
        train: labelled texts.
        dev: labelled texts to score on.
        unlabelled: more texts for step 2, if there are any.
    """

    train: ClassificationData
    dev: ClassificationData | None
    unlabelled: TextData | None

    @property
    def to_distill(self) -> TextData:
        """Texts for step 2: those of `train`, alone or without labels together with `unlabelled`."""
        return self.train if self.unlabelled is None else join_texts(self.train, self.unlabelled)


def run_train(output: OutputFolder[TrainConfig]) -> None:
    """Run the steps that the configuration asks for and write the model.

    Raises:
        CommandError: options that do not fit together, a backbone that cannot be used, or a step that cannot run.
        DataFileError: a file or data set cannot be used.
        KeyboardInterrupt: after Ctrl-C; the last checkpoint is there.
    """
    config, console = output.config, output.console
    with faults_explained():
        data = read_data(config)
        to_distill = data.to_distill
    more = {} if data.unlabelled is None else {"unlabelled": data.unlabelled}
    table = DataTable.of(data.train, data.dev, **more)
    table.check()
    if config.data.unlabelled and not has_unlabelled(config):
        console.print("note: texts without labels are for step 2, which this run does not have; they are not read")

    with faults_explained("--class-weights"):
        class_weights_of(config.fine_tuning(), data.train)  # what is wrong with them is said before any model is made
    model, tokenizer = make_model(config.model.backbone, data.train, config.run.seed, **config.model.of_the_heads())
    config = output.config = _completed(config, data.train, model)
    check_max_length(model, config.model.max_length)
    if config.model.stride is not None:
        with faults_explained("--stride"):
            pairs = any(part.pairs is not None for part in (data.train, to_distill))
            check_passages(tokenizer, config.model.max_length, config.model.stride, pairs=pairs)
    with faults_explained(f"backbone {config.model.backbone or 'packaged'}"):
        check_vocabulary(model, tokenizer, data.train, data.dev, to_distill)
    if config.run.steps == "both" and len(model.layer_heads) == 1:
        raise CommandError("no student classifier to distill behind one exit layer; name more, or add --no-distil")
    output.begin()
    if output.writes:
        table.show(console, tokenizer, config.model.max_length, config.model.stride)
    training, rising = train_model(output, model, tokenizer, data)
    bag = bag_of_words_row(data.train, data.dev) if output.writes and data.dev is not None else None
    backbone = config.model.backbone
    output.finish(
        model,
        tokenizer,
        data.dev,
        training,
        {
            "classes": data.train.label_names,
            "train": len(data.train),
            "dev": 0 if data.dev is None else len(data.dev),
            "unlabelled": 0 if data.unlabelled is None else len(data.unlabelled),
        },
        base_model=None if backbone is None or Path(backbone).exists() else backbone,
        bag=bag,
    )
    if rising is not None and output.writes:
        print(f"note: {how_to_train_on(output, rising)}", file=sys.stderr)


def _completed(config: TrainConfig, train: ClassificationData, model: FastBertForSequenceClassification) -> TrainConfig:
    """Return the configuration with the epochs and the learning rate of step 1 that nobody named."""
    section, batches = config.fine_tune, config.run.gradient_accumulation
    if not config.has_rounds:  # a limit then comes from the configuration of another run
        section = replace(section, max_epochs=None)
    section = section.completed(len(train), len(train.label_names), model.config.hidden_size, batches)
    return replace(config, fine_tune=section)


def train_model(
    output: OutputFolder[TrainConfig],
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    data: TrainData,
) -> tuple[dict[str, TrainingResult], StillRising | None]:
    """Run the steps, in the folders of their names.

    Returns:
        What they report; and, where the score still rises with the last epoch there may be, how.
    """
    config, console = output.config, output.console
    precision, step = config.run.precision, config.fine_tune
    length = f"{step.epochs:g} epochs, learning rate {step.learning_rate:g}"
    if config.run.steps == "joint":
        console.rule(f"Joint training of all exit heads, in {precision}")
        console.print(length)
        with output.faults_explained("joint training"):
            options = output.of_step("joint", data.dev)
            return {"joint": train_jointly(model, tokenizer, data.train, config.fine_tuning(), **options)}, None
    console.rule(f"Step 1: backbone and teacher classifier, in {precision}")
    console.print(length)
    rounds = Rounds(output)
    with output.faults_explained("step 1"):
        assert step.max_epochs is not None  # once the texts are read
        results = fine_tune_in_rounds(
            model,
            tokenizer,
            data.train,
            config.fine_tuning(),
            data.dev,
            step.max_epochs,
            rounds.options_of,
            rounds.tell,
        )
    if config.run.steps == "both":
        console.rule(f"Step 2: student classifiers, in {precision}")
        with output.faults_explained("step 2"):
            options = output.of_step("distil", data.dev)
            settings = config.distillation(output.folder / "distil")
            results["distil"] = distill(model, tokenizer, data.to_distill, settings, **options)
        fit_exit_zero(output, model, tokenizer, data.to_distill)
    return results, rounds.stopped_by_limit


@dataclass
class Rounds:
    """The folders of the rounds of step 1, and what is said of them.

    Attributes:
        stopped_by_limit: how the score still rose when there were as many epochs as there may be; `None`: it did not.
    """

    output: OutputFolder[TrainConfig]
    stopped_by_limit: StillRising | None = None

    def options_of(self, name: str) -> RunOptions:
        """As `OutputFolder.of_step`; a step 2 that learnt from the weights before a new round is taken away."""
        options = self.output.of_step(name)
        distilled = self.output.folder / "distil"
        is_new = name != "fine_tune" and not options["resume"]
        if is_new and self.output.writes and (distilled / RUN_FILE).exists():
            shutil.rmtree(distilled)
        return options

    def tell(self, state: StillRising) -> None:
        """Say behind a round that there is another one."""
        if state.goes_on:
            epochs = self.output.config.fine_tune.epochs
            self.output.console.print(f"{in_words(state)}: another {epochs:g} epochs", soft_wrap=True)
        else:
            self.stopped_by_limit = state


def in_words(state: StillRising) -> str:
    """Return how the score rises."""
    return f"the score on --dev still rises ({state.best_before:.2%} before, {state.last:.2%} in the last epoch)"


def how_to_train_on(output: OutputFolder[TrainConfig], state: StillRising) -> str:
    """Return what to say of a run that ended while the score rose."""
    again = command_to_go_on(("train",), output.folder)
    return f"{in_words(state)}; to train on from there: {again} --max-epochs {2 * state.epochs:g}"


def read_data(config: TrainConfig) -> TrainData:
    """Read what the section `data` names; raise `DataFileError` or `ValueError`."""
    section = config.data
    multi_label = section.multi_label
    assert section.train is not None
    train = read_labelled(section.train, None, section, split=section.train_split, multi_label=multi_label)
    dev = None
    if section.dev is not None:
        names = train.label_names
        dev = read_labelled(section.dev, names, section, split=section.dev_split, multi_label=multi_label)
    unlabelled = [read_unlabelled(file, section) for file in section.unlabelled] if has_unlabelled(config) else []
    return TrainData(train, dev, join_texts(*unlabelled) if unlabelled else None)
