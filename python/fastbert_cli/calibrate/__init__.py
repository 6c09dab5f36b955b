"""`fastbert calibrate`."""
