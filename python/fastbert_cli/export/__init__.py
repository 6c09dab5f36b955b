"""`fastbert export`."""
