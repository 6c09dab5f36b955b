"""What `train`, `distill` and `adopt` do about exit zero, behind step 2."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from fastbert_cli.output_folder import OutputFolder
from fastbert_cli.scores import progress_bars
from fastbert_hf.data import TextData
from fastbert_hf.modeling import FastBertForSequenceClassification
from fastbert_hf.training import distill_exit_zero


def fit_exit_zero(
    output: OutputFolder[Any],
    model: FastBertForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    texts: TextData,
) -> None:
    """Distill exit zero, where the configuration asks for it or the model has one, and say how it went."""
    config, console = output.config, output.console
    if not config.distil.exit_zero and model.exit_zero is None:
        return
    console.rule("Step 2: exit zero, before the first layer")
    shown = output.writes and not output.of_step("distil")["quiet"]
    with output.faults_explained("exit zero"), progress_bars(shown) as advance:
        result = distill_exit_zero(
            model,
            tokenizer,
            texts,
            max_length=config.model.max_length,
            stride=config.model.stride,
            seed=config.run.seed,
            progress=advance,
        )
    console.print(
        f"exit zero: {result.used_buckets:,} of {result.buckets:,} buckets from {result.texts:,} texts; alone it "
        f"answers {result.agreement:.1%} of texts held out as full depth does; fastbert calibrate says whom it lets go",
        soft_wrap=True,
    )
