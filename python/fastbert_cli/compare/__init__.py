"""`fastbert compare`."""
