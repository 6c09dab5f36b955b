"""The tokenizer of a converted model, from the vocabulary of the original."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import PreTrainedTokenizerFast

from fastbert_hf.conversion.checkpoint import ConversionError, listed

_SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def make_tokenizer(
    vocabulary: Path, rows: int, special_tokens: tuple[str, str], max_length: int
) -> PreTrainedTokenizerFast:
    """BERT's lower-casing WordPiece tokenizer, with the special tokens that the original model was given.

    Args:
        vocabulary: file with a word piece per line, in UTF-8.
        rows: of the model's word table, which the vocabulary must have.
        special_tokens: templates of a text and of a pair.
        max_length: tokens that the model takes.

    Raises:
        ConversionError: the file cannot be read, is of another size, names a piece twice, or lacks a special token.
    """
    try:
        lines = vocabulary.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except (OSError, ValueError) as error:
        raise ConversionError(f"{vocabulary}: cannot be read: {error}") from None
    # Lines of white space alone are in the packages' own Chinese vocabulary; what nobody can type keeps their place.
    pieces = [(line.split() or [f"[blank{index}]"])[0] for index, line in enumerate(lines)]
    if len(pieces) != rows:
        raise ConversionError(f"{vocabulary}: {len(pieces)} word pieces, but the model's word table has {rows} rows")
    ids = {piece: index for index, piece in enumerate(pieces)}
    twice = sorted({piece for index, piece in enumerate(pieces) if ids[piece] != index})
    if twice:
        raise ConversionError(f"{vocabulary}: named twice: {listed(twice)}")
    absent = [token for token in _SPECIAL.values() if token not in ids]
    if absent:
        raise ConversionError(
            f"{vocabulary}: lacks {', '.join(absent)}; give the vocabulary that the model was made with"
        )
    if ids["[PAD]"] != 0:
        raise ConversionError(f"{vocabulary}: [PAD] must be the first piece, not number {ids['[PAD]']}")
    tokenizer = Tokenizer(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    single, pair = special_tokens
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(token, ids[token]) for token in ("[CLS]", "[SEP]")]
    )
    mask = {"mask_token": "[MASK]"} if "[MASK]" in ids else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **_SPECIAL,
        **mask,
    )
