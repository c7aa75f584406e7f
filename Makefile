# Every target does its own set-up inside this checkout (.venv and .venv-r, made by scripts/setup.sh and
# setup-r.sh the first time and when pyproject.toml changes) and needs Python >= 3.11 with venv, and a
# network for pip.
#
#   make test ARGS="-m 'not slow'"     what pytest is to do
#   make test PEERS=1                  also install what the tests compare with: Keras with TensorFlow,
#                                      torch, JAX (gigabytes). Unasked, the tests use those that are in
#                                      .venv and name the others at the end; CI=true asks.
#   make setup PYTHON=python3.12       the Python that .venv is made with
#   make setup-r                       R, and its Python's shared library, by apt-get, as root or with
#                                      `sudo -n`. `make test` does it unasked as root on Debian and Ubuntu;
#                                      without R, it skips what R calls and its last line says so.
#                                      PYTHON_R= is the Python for .venv-r.

PYTHON ?=
PEERS ?= $(filter true,$(CI))
ARGS ?=

export PYTHON
unexport PYTHONHOME PYTHONPATH RETICULATE_PYTHON
python := .venv/bin/python
setup := @sh scripts/setup.sh
setup_r := @sh scripts/setup-r.sh $(if $(filter-out 0 no,$(PEERS)),peers)
test_extras := test $(if $(filter-out 0 no,$(PEERS)),peers)

.PHONY: help demo test check bench man vignettes setup setup-r clean
.NOTPARALLEL:

help:
	@echo 'make demo    see it work, on data that it carries'
	@echo 'make test    run the tests (PEERS=1: compare with Keras, TensorFlow, torch and JAX too)'
	@echo 'make check   formatting, lint, types'
	@echo 'make bench   measure speed'
	@echo 'make man     write man/, the pages of R'"'"'s manual (ARGS=--run: run their examples in R first)'
	@echo 'make vignettes   render vignettes/ and the R package'"'"'s pages (needs R with reticulate, knitr; pandoc)'
	@echo 'make setup   all that the above need, installed beforehand'
	@echo 'make setup-r R, with the Python that it calls (apt-get: as root or with sudo -n)'
	@echo 'make clean   take away all that make has made'

demo:
	$(setup)
	@$(python) -m sparse_xent demo

test:
	$(setup) $(test_extras)
	$(setup_r) auto
	@$(python) -m pytest $(ARGS)

check:
	$(setup) dev
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy

bench:
	$(setup) $(test_extras)
	@$(python) -m benchmarks $(ARGS)

man:
	$(setup)
	@$(python) man/make.py $(ARGS)

# Its Python is RETICULATE_PYTHON, else that of .venv-r, with matplotlib beside NumPy.
vignettes:
	@Rscript vignettes/make.R $(ARGS)

setup:
	$(setup) $(test_extras) dev

setup-r:
	$(setup_r)

clean:
	rm -rf .venv .venv-r dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
