"""`fastbert evaluate`: a saved model's scores, FLOPs and times on labelled texts."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from transformers.utils import logging

from fastbert_cli import scores
from fastbert_cli.errors import CommandError, faults_explained
from fastbert_cli.evaluate.command import Evaluate
from fastbert_cli.evaluate.details import Details
from fastbert_cli.models import load_classifier, longest_text, passages, place, place_and_patch, precision_of
from fastbert_cli.texts import note_cut_off, note_seen, read_for
from fastbert_hf.agreement import Agreement, compare_answers
from fastbert_hf.data import TokenisedDataset
from fastbert_hf.files import write_atomically
from fastbert_hf.machine import describe_machine
from fastbert_hf.scoring import FLOPS_CONVENTION, score
from fastbert_hf.timing import inputs_of


def run_evaluate(options: Evaluate) -> None:
    """Print the scores, and write them to `options.out` if that is given.

    Raises:
        CommandError: options that contradict each other, or a model that cannot be used.
        DataFileError: the file or data set cannot be used, or has labels that the model does not know.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, tokenizer = load_classifier(options.model)
    if options.confusion is not None and model.config.multi_label:
        raise CommandError("--confusion: a text of a multi-label model is taken for no one class; leave it out")
    with faults_explained():
        for speedup in options.speedup:  # what is wrong with it is said before the data is read
            model.resolve_speed(None, speedup, 1)
    max_length = longest_text(model, tokenizer, options.max_length)
    stride = passages(model, tokenizer, max_length, options.stride)
    with faults_explained():
        data = read_for(model, options.texts)
    seen = model.seen_texts.among(data)
    note_seen(seen)
    unpatched = copy.deepcopy(model) if options.agreement else None
    patched = place_and_patch(model, options.patching)
    details = Details(data, model.config.num_hidden_layers, model.config.first_exit)
    with faults_explained(), scores.progress_bars() as advance:
        dataset = TokenisedDataset(data, tokenizer, max_length, stride)
        note_cut_off(dataset.truncated, max_length)
        rows = score(
            model,
            dataset,
            options.speeds,
            options.speedup,
            batch_size=options.batch_size,
            timed=options.timed,
            progress=advance,
            each=details.add,
        )
    agreement = None
    if unpatched is not None:
        place(unpatched, options.patching.backend)
        batches = (inputs_of(batch, model.device) for batch in dataset.batches(options.batch_size))
        agreement = compare_answers(unpatched, model, batches, (0.0, *options.speeds))
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "model": str(options.model),
        "data": options.texts.data,
        "split": options.texts.split,
        "texts": len(data),
        "seen_in_training": {name: int(which.sum()) for name, which in seen._asdict().items()},
        "max_length": max_length,
        "truncated": dataset.truncated,
        "stride": stride,
        "passages": len(dataset),
        "batch_size": options.batch_size,
        "patched": patched,
        "backend": options.patching.backend,
        "dtype": options.patching.dtype,
        "precision": precision_of(model),
        "layers": model.config.num_hidden_layers,
        "flops_convention": FLOPS_CONVENTION,
        "rows": rows,
        "by_class": details.as_values() if options.by_class else None,
        "agreement": None if agreement is None else asdict(agreement),
    }
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    if options.out is not None:
        with faults_explained(f"--out {options.out}"):
            write_atomically(options.out, text)
    if options.errors is not None:
        details.write_errors(options.errors)
    if options.confusion is not None:
        details.write_confusion(options.confusion)
    if options.as_json:
        print(text, end="")
        return
    console = Console(highlight=False, soft_wrap=True)
    scores.show(console, rows)
    how = "on the fast kernels" if patched else "without the fast kernels"
    texts = f"{len(data)} texts" + (f" in {len(dataset)} passages" if dataset.has_passages else "")
    console.print(f"{texts} in batches of {options.batch_size}, {how}", markup=False)
    if agreement is not None:
        compared = f"{len(dataset)} {'passages' if dataset.has_passages else 'texts'}"
        console.print(_in_words(agreement, compared, options), markup=False)
    if options.by_class:
        details.show(console)
    for written in (options.out, options.errors, options.confusion):
        if written is not None:
            console.print(f"written: {written}", markup=False)


def _in_words(found: Agreement, compared: str, options: Evaluate) -> str:
    speeds = ", ".join(f"{speed:g}" for speed in options.speeds)
    labels = f"{found.other_labels} of {found.answers} labels differ"
    layers = f"{found.other_exit_layers} of {found.decided} exit layers, logits by up to {found.logits:.2g}"
    return f"against the unpatched model, {compared} at full depth and Speed {speeds or 'none'}: {labels}, {layers}"
