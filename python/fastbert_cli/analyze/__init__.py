"""`fastbert analyze`."""
