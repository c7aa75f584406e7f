# Every target does its own set-up inside this checkout (.venv and .venv-r, made by scripts/setup.sh and
# setup-r.sh the first time and when pyproject.toml changes) and needs Python >= 3.11 with venv, and a
# network for pip.
#
#   make test                          the fast part, in minutes; it downloads no peer and no compiler. Its
#                                      last lines say what was left out
#   make test ALL=1                    everything: the slow tests too, and CUDA's compiler and the peers are
#                                      installed. CI=true asks for it
#   make test ARGS="-k layout -n 0"    what pytest is to do; -n 0: in one process
#   make test PEERS=1                  the fast part beside the peers, which are installed: Keras with
#                                      TensorFlow, torch, JAX (gigabytes). Unasked, those are used that are
#                                      in .venv
#   make setup PYTHON=python3.12       the Python that .venv is made with
#   make setup-r                       R, and its Python's shared library, by apt-get, as root or with
#                                      `sudo -n`. `make test` does it unasked as root on Debian and Ubuntu;
#                                      without R, it skips what R calls and its last line says so.
#                                      PYTHON_R= is the Python for .venv-r.

PYTHON ?=
ALL ?= $(filter true,$(CI))
PEERS ?= $(ALL)
ARGS ?=

export PYTHON
unexport PYTHONHOME PYTHONPATH RETICULATE_PYTHON
python := .venv/bin/python
setup := @sh scripts/setup.sh
all := $(filter-out 0 no,$(ALL))
peers := $(if $(filter-out 0 no,$(PEERS)),peers)
setup_r := @sh scripts/setup-r.sh $(peers)
test_extras := test $(if $(all),test-cuda) $(peers)

.PHONY: help demo test check bench man vignettes wheel setup setup-r clean
.NOTPARALLEL:

help:
	@echo 'make demo    see it work, on data that it carries'
	@echo 'make test    run the fast part of the tests, in minutes'
	@echo 'make test ALL=1   run all of them, with Keras, TensorFlow, torch, JAX and CUDA'"'"'s compiler (gigabytes)'
	@echo 'make check   formatting, lint, types'
	@echo 'make bench   measure speed (PEERS=1: beside Keras, TensorFlow, torch and JAX, as benchmarks/README.md shows it)'
	@echo 'make man     write man/, the pages of R'"'"'s manual (ARGS=--run: run their examples in R first)'
	@echo 'make vignettes   render vignettes/ and the R package'"'"'s pages (needs R with reticulate, knitr; pandoc)'
	@echo 'make wheel   a wheel in dist/: on Linux, x86-64, with compiled kernels (minutes)'
	@echo 'make setup   all that the above need, installed beforehand'
	@echo 'make setup-r R, with the Python that it calls (apt-get: as root or with sudo -n)'
	@echo 'make clean   take away all that make has made'

# Where nothing can be compiled or kept the demonstration works all the same.
demo:
	$(setup)
	@$(python) -m sparse_xent warm --quiet || true
	@$(python) -m sparse_xent demo

test:
	$(setup) $(test_extras)
	$(setup_r) auto
	@$(python) -m pytest --numprocesses=2 --dist=loadfile $(if $(all),,-m "not slow") $(ARGS)

check:
	$(setup) dev
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy

bench:
	$(setup) test $(peers)
	@$(python) -m benchmarks $(ARGS)

man:
	$(setup)
	@$(python) man/make.py $(ARGS)

# Its Python is RETICULATE_PYTHON, else that of .venv-r, with matplotlib beside NumPy.
vignettes:
	@Rscript vignettes/make.R $(ARGS)

wheel:
	$(setup)
	@HATCH_BUILD_HOOK_ENABLE_CUSTOM=$(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),true) \
		$(python) -m pip wheel --disable-pip-version-check --no-deps --wheel-dir dist .

setup:
	$(setup) $(test_extras) dev

setup-r:
	$(setup_r)

clean:
	rm -rf .venv .venv-r dist build .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
