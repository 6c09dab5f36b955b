"""`fastbert predict`."""
