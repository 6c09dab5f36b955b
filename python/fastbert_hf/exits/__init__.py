"""When samples leave: the rule, what a call's Speed comes to, who leaves, and the calibrated setting of a model."""
