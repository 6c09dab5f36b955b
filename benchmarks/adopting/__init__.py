"""Classifiers that are adopted: how they are made, and what adoption is worth."""
