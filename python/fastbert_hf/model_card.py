"""The model card: the README.md beside a saved FastBERT, for people and for the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import ModelCardData

from fastbert_hf.configuration import FastBertConfig
from fastbert_hf.files import write_atomically
from fastbert_hf.modeling import FastBertForSequenceClassification

MetricsRow = Mapping[str, str | int | float]

_MOST_NAMES = 20


def write_model_card(
    folder: str | Path,
    *,
    model: FastBertForSequenceClassification,
    base_model: str | None = None,
    language: str | Sequence[str] | None = None,
    metrics: Sequence[MetricsRow] = (),
    metrics_note: str = "",
) -> Path:
    """Write `README.md` into the folder of a saved model; a file already there is replaced.

    Args:
        folder: of the saved model; must exist.
        model: the model that was saved.
        base_model: hub name of the pretrained backbone.
        language: ISO 639-1 code or codes of the texts.
        metrics: rows of one table, all with the same columns: column name to text or number. Numbers that are not
            integers are shown with four digits.
        metrics_note: what the table shows: data set, split, convention of the FLOPs.

    Returns:
        The file written.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: rows of metrics with different columns.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; save the model there first: model.save_pretrained(folder)")
    metadata = ModelCardData(
        library_name="fastbert_hf",
        pipeline_tag="text-classification",
        tags=["fastbert", "early-exit", model.config.backbone_config.model_type],
        base_model=base_model,
        language=language if language is None or isinstance(language, str) else list(language),
    )
    sections = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# FastBERT on {base_model or model.config.backbone_config.model_type}",
        _describe(model.config, base_model),
        _describe_use(model.config),
    ]
    if metrics:
        sections += ["## Results", *([metrics_note] if metrics_note else []), _table(metrics)]
    sections += [
        "## Source",
        "Liu et al., [FastBERT: a Self-distilling BERT with Adaptive Inference Time]"
        "(https://arxiv.org/abs/2004.02178), ACL 2020.",
    ]
    path = folder / "README.md"
    write_atomically(path, "\n\n".join(sections) + "\n")
    return path


def _describe(config: FastBertConfig, base_model: str | None) -> str:
    kind = config.backbone_config.model_type
    origin = f" (from `{base_model}`)" if base_model else ""
    layers = [layer for layer in config.exit_layers if layer > 0]
    where = "every layer" if len(layers) == config.num_hidden_layers else f"layers {', '.join(map(str, layers))}"
    if config.has_exit_zero:
        where += f"; before the first layer a hashed bag of tokens and pairs ({config.exit_zero_buckets:,} buckets)"
    names = list((config.id2label or {}).values())
    shown = ", ".join(f"`{name}`" for name in names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
    labels = "several classes at once, or none" if config.multi_label else "one class"
    answer = "a score" if config.gives_scores else f"{labels} of {len(names)}: {shown}"
    return (
        "A FastBERT text classifier: a text leaves the encoder at the first exit head that is sure enough, so that "
        "easy texts cost less than hard ones. The threshold on the uncertainty, Speed, is chosen by a calibration or "
        "with a call.\n\n"
        f"- Backbone: {kind}{origin}, {config.num_hidden_layers} layers of width {config.hidden_size}, up to "
        f"{config.max_position_embeddings} tokens\n"
        f"- Exit heads: {_describe_head(config)}, behind {where}\n"
        f"- Answer: {answer}"
    )


def _describe_head(config: FastBertConfig) -> str:
    width = config.head_hidden_size
    if config.head_type == "attentive":
        return f"attentive, width {width}, {config.head_num_attention_heads} attention heads"
    dense = config.head_num_dense_layers
    hidden = f"{dense} dense layer(s) of width {width} with {config.head_activation}" if dense else "no dense layer"
    pooling = config.head_pooling
    if config.student_pooling is not None:
        pooling = f"students {config.student_pooling}, teacher {pooling}"
    return f"pooled ({pooling}), {hidden}"


def _describe_use(config: FastBertConfig) -> str:
    if config.gives_scores:
        answer = "answers.scores"
    else:
        answer = "answers.logits.sigmoid()" if config.multi_label else "answers.label_names"
    return f"""## Use

```python
from transformers import AutoTokenizer
from fastbert_hf import FastBertForSequenceClassification, predict

folder = "path/to/this/folder"
model = FastBertForSequenceClassification.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)

answers = predict(model, tokenizer, ["a text", "another text"], speed=0.5)
print({answer}, answers.exit_layer)
```

Without `speed`, and in `transformers.pipeline("text-classification")`, texts leave as the calibration beside the
model says (`fastbert_calibration.json`); without one every text runs through all layers.

With the kernels, which give the same answers in less time, one call before the first `predict`:

```python
from fastbert_kernels import patch

patch(model)
```"""


def _table(rows: Sequence[MetricsRow]) -> str:
    columns = list(rows[0])
    for number, row in enumerate(rows, start=1):
        if list(row) != columns:
            raise ValueError(f"row {number} of the metrics has the columns {list(row)}, the first row {columns}")
    lines = [columns, ["---"] * len(columns), *([_show(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _show(value: str | int | float) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
