"""Models that training.py trains: their steps in a run folder, and figures from their recorded exits."""
