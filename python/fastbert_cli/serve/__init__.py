"""`fastbert serve`."""
