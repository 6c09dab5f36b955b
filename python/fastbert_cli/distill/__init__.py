"""`fastbert distill`."""
