"""The texts that commands read: labelled ones, and texts without labels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from transformers import PreTrainedTokenizerBase

from fastbert_cli.errors import CommandError
from fastbert_cli.inputs import Columns, places_of, text_columns_of
from fastbert_cli.models import label_names_of
from fastbert_cli.options import LabelledTexts
from fastbert_hf.data import (
    ClassificationData,
    TextData,
    TokenisedDataset,
    read_classification_data,
    read_text_data,
    read_unlabelled_texts,
)
from fastbert_hf.data.seen import Seen
from fastbert_hf.modeling import FastBertForSequenceClassification

# Of the tokens of a text; in the language of a vocabulary nearly none is.
_MANY_UNKNOWN = 0.1


def read_for(model: FastBertForSequenceClassification, texts: LabelledTexts) -> ClassificationData:
    """Return labelled texts with the class ids of `model`.

    Raises:
        DataFileError: the file or data set cannot be used, or has labels that the model does not know.
        ValueError: `pair_column` without `text_column`.
    """
    where = asdict(texts)
    return read_classification_data(
        where.pop("data"), label_names_of(model), multi_label=model.config.multi_label, **where
    )


def read_without_labels(texts: LabelledTexts) -> TextData:
    """Return the texts alone, of a file that may have labels or not.

    Raises:
        DataFileError: the file or data set cannot be used.
        ValueError: `pair_column` without `text_column`.
    """
    where = asdict(texts)
    del where["label_column"]
    return read_text_data(where.pop("data"), **where)


def read_labelled(
    source: str, label_names: Sequence[str] | None, columns: Columns, *, split: str | None, multi_label: bool
) -> ClassificationData:
    """Return labelled texts of `source`, which is one of several: a subset is for the data sets among them.

    Args:
        source: file, folder or name of a data set.
        label_names: known classes, if there are any.
        columns: section of the configuration.
        split: of the data set.
        multi_label: a text may have any number of classes.

    Raises:
        DataFileError: the file or data set cannot be used.
        ValueError: `pair_column` without `text_column`.
    """
    return read_classification_data(
        source, label_names, split=split, multi_label=multi_label, **places_of(source, columns)
    )


def note_cut_off(truncated: int, max_length: int, what: str = "texts") -> None:
    """Say on stderr how many texts were cut off at `max_length` tokens, if any were."""
    if truncated:
        print(
            f"note: {truncated:,} {what} are longer than {max_length} tokens and were cut off; --max-length sets where",
            file=sys.stderr,
        )


def note_seen(seen: Seen) -> None:
    """Say on stderr how many texts the training has seen, if it has any."""
    if seen.any.any():
        print(f"note: {seen.in_words()}; scores on such texts flatter, so give others", file=sys.stderr)


def note_unknown(dataset: TokenisedDataset, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say on stderr that the model does not know the language of the texts, if many of their tokens are unknown."""
    unknown = tokenizer.unk_token_id
    share = 0.0 if unknown is None else dataset.share_of(unknown)
    if share > _MANY_UNKNOWN:
        print(
            f"note: {share:.0%} of the tokens are unknown to the model's tokenizer: are the texts in another language "
            "or encoding? Use texts like those to come, and a model made for their language",
            file=sys.stderr,
        )


def with_ids_of(data: ClassificationData, class_names: Sequence[str], model: str) -> ClassificationData:
    """Return `data`, of single-label texts, with the class ids of another model.

    Raises:
        CommandError: the model does not know a class of them.
    """
    used = [data.label_names[number] for number in sorted(set(data.label_ids))]
    for name in used:
        if name not in class_names:
            raise CommandError(
                f"{model}: the model does not know the class {name!r}; compare models of the same classes"
            )
    ids = [class_names.index(data.label_names[number]) for number in data.label_ids]
    return replace(data, label_ids=ids, label_names=list(class_names))


def read_unlabelled(file: str, columns: Columns) -> TextData:
    """Return the texts of `file`; the names of columns are for those files that have some.

    Raises:
        DataFileError: the file cannot be used.
        ValueError: `pair_column` without `text_column`.
    """
    return read_unlabelled_texts(file, **text_columns_of(file, columns))
