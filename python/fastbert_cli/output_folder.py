"""The output folder of `train` and `distill`: configuration, run folders of the steps, model and results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic

from rich.console import Console
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from fastbert_cli import scores
from fastbert_cli.config_file import Config, as_sections, check_same, read_config, run_to_begin, write_config
from fastbert_cli.errors import CommandError, faults_explained, is_disk_full, shell_command
from fastbert_cli.options import SPEEDS
from fastbert_cli.texts import note_cut_off
from fastbert_cli.training import CONFIG_FILE, RESULTS_FILE, command_to_go_on
from fastbert_hf.data import ClassificationData, TokenisedDataset
from fastbert_hf.files import folder_written_atomically, sole_writer, write_atomically
from fastbert_hf.machine import describe_machine
from fastbert_hf.model_card import write_model_card
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.scoring import FLOPS_CONVENTION, Row, score
from fastbert_hf.training import RunOptions, TrainingResult
from fastbert_hf.training.run_folder import RUN_FILE


class OutputFolder(Generic[Config]):
    """One run of a command in one folder, as a context; with several processes, the first of them writes.

    Args:
        command: words of the command that repeats the run, without its options.
        folder: of the run.
        kind: of the configuration.
        config_file: configuration to begin with; `None`: that of the run to resume, or the defaults.
        flags: values that win over the file's, by their key.
        resume: go on with the run in the folder.
        quiet: the console is silent, and so are the steps.

    Attributes:
        config: complete configuration.
        writes: this is the first process, which alone writes and says anything.
        console: for people; silent in all processes but the first.

    Raises:
        CommandError: the configuration is faulty, the folder holds a run and `resume` is not given, or with `resume`
            holds none or another one.
    """

    def __init__(
        self,
        command: tuple[str, ...],
        folder: Path,
        kind: type[Config],
        config_file: Path | None,
        flags: Mapping[str, Any],
        resume: bool,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet
        self.folder = folder
        self.resume = resume
        self._command = command
        self._lock = ExitStack()  # on the folder, from `begin` on
        self._stored = folder / CONFIG_FILE
        logging.set_verbosity_error()
        logging.disable_progress_bar()  # of loading and saving; that of training stays
        _, file = run_to_begin(folder, kind, config_file, flags, resume)
        self.config: Config = read_config(kind, file, flags)
        if resume:
            check_same(read_config(kind, self._stored, {}), self.config, folder, flags)
        # Set by accelerate launch and torchrun.
        self.writes = os.environ.get("RANK", "0") == "0"
        self.console = Console(quiet=quiet or not self.writes)

    def __enter__(self) -> OutputFolder[Config]:
        return self

    def __exit__(self, *fault: object) -> None:
        self._lock.close()

    def begin(self) -> None:
        """Write the configuration, in a folder that is this run's alone until the context ends."""
        if not self.writes:
            return
        with faults_explained(f"--out {self.folder}"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.enter_context(sole_writer(self.folder / "run"))
            command = shell_command("fastbert", *self._command, "--config", self._stored, "--out", "OTHER_FOLDER")
            write_config(self.config, self._stored, command)

    def of_step(self, name: str, dev: ClassificationData | None = None) -> RunOptions:
        """Return `dev`, `run_dir`, `resume` and `quiet` of a training step; one that had not begun begins."""
        folder = self.folder / name
        resume = self.resume and (folder / RUN_FILE).exists()
        return {"dev": dev, "run_dir": folder, "resume": resume, "quiet": self._quiet}

    @contextmanager
    def faults_explained(self, where: str) -> Iterator[None]:
        """Turn faults of the block into a `CommandError`; that of a full disk says which, and how to go on."""
        try:
            with faults_explained(where):
                yield
        except CommandError as error:
            if not is_disk_full(error.__cause__, self.folder):
                raise
            again = command_to_go_on(self._command, self.folder)
            raise CommandError(
                f"{where}: no space is left on the disk of {self.folder}; make room, then go on with: {again}"
            ) from error

    def finish(
        self,
        model: FastBertForSequenceClassification,
        tokenizer: PreTrainedTokenizerBase,
        dev: ClassificationData | None,
        training: dict[str, TrainingResult],
        data: dict[str, Any],
        base_model: str | None = None,
        bag: Row | None = None,
    ) -> None:
        """Score the model on `dev`, write model, card and results.json, and show the scores.

        Args:
            model: the finished one.
            tokenizer: its tokenizer.
            dev: labelled texts, if there are any.
            training: what the steps reported, by their name.
            data: for results.json: numbers of texts, classes.
            base_model: hub name of the backbone, for the card.
            bag: what a bag of words scores on `dev`, if there is one; shown below the model.

        Raises:
            CommandError: something cannot be written.
        """
        if not self.writes:
            return
        max_length, stride = self.config.model.max_length, self.config.model.stride
        note_cut_off(max(result.truncated for result in training.values()), max_length, "training texts")
        rows: list[Row] = []
        if dev is not None:
            dataset = TokenisedDataset(dev, tokenizer, max_length, stride)
            note_cut_off(dataset.truncated, max_length, "dev texts")
            with scores.progress_bars(not self._quiet) as advance:
                rows = score(model, dataset, SPEEDS, progress=advance)
        results = {
            "machine": describe_machine(),
            "config": as_sections(self.config),
            "data": data,
            "layers": model.config.num_hidden_layers,
            "exit_layers": model.config.exit_layers,
            "training": {name: asdict(result) for name, result in training.items()},
            "flops_convention": FLOPS_CONVENTION,
            "dev": rows,
            "bag_of_words": bag,
        }
        with self.faults_explained("saving the model"):
            with folder_written_atomically(self.folder / "model") as folder:
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
                write_model_card(
                    folder,
                    model=model,
                    base_model=base_model,
                    metrics=scores.for_card(rows),
                    metrics_note=f"Scores on {data['dev']} labelled texts that the best epoch was chosen by. "
                    "FLOPs: those of Linear layers, as the paper counts them.",
                )
            write_atomically(self.folder / RESULTS_FILE, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
        if rows:
            scores.show(self.console, rows if bag is None else [*rows, bag])
            scores.show_layers(self.console, training)
            scores.note_losses(rows)
            if bag is not None:
                scores.note_baseline(rows, bag)
        elif model.config.gives_scores:
            self.console.print("next: fastbert calibrate --max-score-change", soft_wrap=True)
        else:
            self.console.print("no scores: give labelled texts with --dev, or use fastbert evaluate", soft_wrap=True)
        self.console.print(f"written: {self.folder}/model, {RESULTS_FILE}, {CONFIG_FILE}", soft_wrap=True)
