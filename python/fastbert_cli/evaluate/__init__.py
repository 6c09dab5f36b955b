"""`fastbert evaluate`."""
