"""Text classification data: files in, tokenised batches out."""

from __future__ import annotations

from fastbert_hf.data.columns import text_column_names
from fastbert_hf.data.errors import DataFileError, EmptyTextError
from fastbert_hf.data.hugging_face import read_classification_data
from fastbert_hf.data.json_lines import JSON_LINES
from fastbert_hf.data.lines import read_lines
from fastbert_hf.data.reading import (
    read_classification_file,
    read_texts,
    read_texts_with_gaps,
    read_unlabelled_texts,
)
from fastbert_hf.data.samples import ClassificationData, Text, TextData, join_texts
from fastbert_hf.data.tables import read_table
from fastbert_hf.data.tokenised import TokenisedDataset, encode, wants_segment_ids

__all__ = [
    "JSON_LINES",
    "ClassificationData",
    "DataFileError",
    "EmptyTextError",
    "Text",
    "TextData",
    "TokenisedDataset",
    "encode",
    "join_texts",
    "read_classification_data",
    "read_classification_file",
    "read_lines",
    "read_table",
    "read_texts",
    "read_texts_with_gaps",
    "read_unlabelled_texts",
    "text_column_names",
    "wants_segment_ids",
]
