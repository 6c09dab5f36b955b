"""Pretrained encoders of twelve layers that the package index carries, as plain folders of Transformers."""
