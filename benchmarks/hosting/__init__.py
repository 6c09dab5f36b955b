"""Parts of `benchmarks/hosts.py`: the models of every host, and what is measured of one."""
