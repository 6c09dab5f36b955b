"""What the contestants are called, in tables and result files."""

REFILL, NO_REFILL = "fastbert serve", "the same without refill"
ONNX, PIPELINE = "ONNX Runtime int8, full depth", "Transformers pipeline, full depth"
SHELL = "the server alone"  # it answers what it tokenised, and nothing runs
