"""`fastbert adopt`."""
