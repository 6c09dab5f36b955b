"""The parts of comparison.py: what is compared, how it is measured and how it is shown."""
