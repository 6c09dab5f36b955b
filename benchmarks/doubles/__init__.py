"""Models that stand in for published FastBERT implementations of others: tests patch them, benchmarks time them.

They lie here because a script in benchmarks/ finds what lies beside it, and pytest finds both.
"""
