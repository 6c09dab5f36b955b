"""`fastbert convert`."""
