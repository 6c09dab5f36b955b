"""`fastbert train`."""
