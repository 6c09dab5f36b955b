# make demo    train, distill, patch and measure a FastBERT on docstrings; results in demo-out/
# make test    every test that this machine can run, but for the proofs
# make proofs  the slow ones: kernels without their hardware (interpreted, compiled for every GPU, under sanitizers, on a
#              model of tiles) and work in several processes
# make bench   the comparisons with other engines and the profile, about 35 minutes on two cores; BENCH="--full" compares more
# make bench-serve  the server under load, beside full-depth engines behind the same server, two hours or so on two cores:
#              models with random weights; BENCH="--data FOLDER --run FOLDER" serves a trained one, as in the committed table
# make results  figures, tables and the picture of the documents again, from the committed result files (seconds; measures nothing)
# make lint    ruff, clang-format, mypy, and whether the figures in the documents are those of the result files
# Each does its own set-up (a virtual environment in .venv).
VENV ?= .venv
PYTHON := $(VENV)/bin/python

.PHONY: setup demo test proofs bench bench-serve results lint clean

setup:
	@VENV=$(VENV) scripts/setup_env.sh

demo: setup
	$(VENV)/bin/fastbert demo

# A process per logical core, each with one thread: threads of one process would wait for each other's small operations.
TEST := OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n logical --dist worksteal

test: setup
	$(TEST) -m "not proof"

proofs: setup
	$(TEST) -m proof

# The other engines, which nothing else needs.
$(VENV)/.fastbert-bench: pyproject.toml | setup
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	touch $@

bench: $(VENV)/.fastbert-bench
	$(PYTHON) benchmarks/comparison.py $(BENCH)
	$(PYTHON) benchmarks/plain_classifiers.py
	$(PYTHON) benchmarks/profile_encoder.py

bench-serve: $(VENV)/.fastbert-bench
	$(PYTHON) benchmarks/serve.py $(BENCH)

results: setup
	$(PYTHON) benchmarks/document_numbers.py

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(shell git ls-files '*.cpp' '*.cu' '*.h' '*.cuh')
	$(PYTHON) -m mypy fastbert_kernels python/fastbert_hf python/fastbert_cli python/fastbert_serving python/fastbert_ray
	$(PYTHON) benchmarks/document_numbers.py --check

clean:
	rm -rf build demo-out $(VENV) *.egg-info python/*.egg-info fastbert_kernels/_C.*.so
