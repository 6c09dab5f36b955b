"""Checkpoints of other FastBERT implementations as folders that `from_pretrained` loads."""

from fastbert_hf.conversion.checkpoint import ConversionError
from fastbert_hf.conversion.comparison import Comparison, LayerDifference
from fastbert_hf.conversion.convert import FORMATS, ConversionReport, convert_checkpoint, detect_format

__all__ = [
    "FORMATS",
    "Comparison",
    "ConversionError",
    "ConversionReport",
    "LayerDifference",
    "convert_checkpoint",
    "detect_format",
]
