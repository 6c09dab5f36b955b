"""Text classification data: files in, tokenised batches out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastbert_hf.data.bad_rows import FIRST_ROWS, BadRows, BadRowsError
from fastbert_hf.data.columns import text_column_names
from fastbert_hf.data.errors import DataFileError, EmptyTextError
from fastbert_hf.data.hugging_face import (
    look_at_classification_data,
    look_at_text_data,
    read_classification_data,
    read_text_data,
)
from fastbert_hf.data.json_lines import JSON_LINES
from fastbert_hf.data.lines import STANDARD_INPUT, read_lines
from fastbert_hf.data.reading import (
    look_at_text_file,
    read_classification_file,
    read_text_rows,
    read_texts,
    read_unlabelled_texts,
)
from fastbert_hf.data.samples import ClassificationData, Text, TextData, join_texts, select_texts
from fastbert_hf.deferred import deferred_names

if TYPE_CHECKING:
    from fastbert_hf.data.tokenised import (
        TokenisedDataset,
        check_passages,
        encode,
        encode_passages,
        wants_segment_ids,
        whole_number,
    )
else:  # not for type checkers, which would take any name for one that is there
    __getattr__, __dir__ = deferred_names(
        __name__,
        {
            "tokenised": (
                "TokenisedDataset",
                "check_passages",
                "encode",
                "encode_passages",
                "wants_segment_ids",
                "whole_number",
            )
        },
    )

__all__ = [
    "FIRST_ROWS",
    "JSON_LINES",
    "STANDARD_INPUT",
    "BadRows",
    "BadRowsError",
    "ClassificationData",
    "DataFileError",
    "EmptyTextError",
    "Text",
    "TextData",
    "TokenisedDataset",
    "check_passages",
    "encode",
    "encode_passages",
    "join_texts",
    "look_at_classification_data",
    "look_at_text_data",
    "look_at_text_file",
    "read_classification_data",
    "read_classification_file",
    "read_lines",
    "read_text_data",
    "read_text_rows",
    "read_texts",
    "read_unlabelled_texts",
    "select_texts",
    "text_column_names",
    "wants_segment_ids",
    "whole_number",
]
