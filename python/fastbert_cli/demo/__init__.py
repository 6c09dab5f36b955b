"""`fastbert demo`."""
