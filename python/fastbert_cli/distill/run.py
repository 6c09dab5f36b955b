"""`fastbert distill`: step 2 on a saved model, with texts alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastbert_cli.data_table import DataTable
from fastbert_cli.distill.command import DistillConfig
from fastbert_cli.errors import CommandError, faults_explained
from fastbert_cli.exit_zero import fit_exit_zero
from fastbert_cli.models import Loaded, label_names_of, longest_text, passages
from fastbert_cli.output_folder import OutputFolder
from fastbert_cli.texts import read_labelled, read_unlabelled
from fastbert_hf.data import TextData, check_passages, join_texts
from fastbert_hf.exits.fingerprint import full_depth_fingerprint
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import distill
from fastbert_hf.training.checks import check_vocabulary


def run_distill(output: OutputFolder[DistillConfig], load: Callable[[], Loaded]) -> None:
    """Distill the students of a model and write the model.

    Args:
        output: folder of the run.
        load: returns the model, whose teacher classifier and backbone are trained.

    Raises:
        CommandError: options that do not fit together, no saved model, a run to resume whose model has changed since,
            or step 2 cannot run.
        DataFileError: a file or data set cannot be used.
        KeyboardInterrupt: after Ctrl-C; the last checkpoint is there.
    """
    config, console = output.config, output.console
    section = config.data
    model, tokenizer = load()
    max_length = longest_text(model, tokenizer, config.model.max_length)
    stride = passages(model, tokenizer, max_length, config.model.stride)
    config = output.config = replace(config, model=replace(config.model, max_length=max_length, stride=stride))
    with faults_explained():
        texts = read_texts(config, model)
        dev = None
        if section.dev is not None:
            names = label_names_of(model)
            dev = read_labelled(
                section.dev, names, section, split=section.dev_split, multi_label=model.config.multi_label
            )
        check_vocabulary(model, tokenizer, texts, dev)
        if stride is not None:
            check_passages(tokenizer, max_length, stride, pairs=texts.pairs is not None)
    table = DataTable.of(texts, dev)
    table.check()
    output.begin()
    if output.writes:
        table.show(console, tokenizer, max_length, stride)
    console.rule(f"Step 2: student classifiers, in {config.run.precision}")
    with output.faults_explained("step 2"):
        settings = config.distillation(output.folder / "distil")
        before = full_depth_fingerprint(model)
        result = distill(model, tokenizer, texts, settings, **output.of_step("distil", dev))
        if full_depth_fingerprint(model) != before:  # a checkpoint brings the weights that its run began with
            raise CommandError(
                f"{output.folder} holds a run that began with other weights of the model, which have changed since; "
                "choose another --out for the new ones"
            )
    fit_exit_zero(output, model, tokenizer, texts)
    numbers = {"classes": label_names_of(model), "texts": len(texts), "dev": 0 if dev is None else len(dev)}
    output.finish(model, tokenizer, dev, {"distil": result}, numbers)


def read_texts(config: DistillConfig, model: FastBertForSequenceClassification) -> TextData:
    """The texts that the configuration names, with labels if the targets need them."""
    section = config.data
    if config.distil.targets == "soft":
        return join_texts(*(read_unlabelled(file, section) for file in section.texts))
    names = label_names_of(model)
    return read_labelled(section.texts[0], names, section, split=None, multi_label=model.config.multi_label)
