"""Accuracy and time of everything that was measured on a data set, from the committed result files."""
