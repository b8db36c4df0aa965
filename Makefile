# make demo: a GAN learns handwritten digits, from a bare machine. make test: the tests, likewise;
# make test-long: the long forms of those that have one.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# A file of exact versions and their hashes instead of requirements-dev.txt: what CI installs.
LOCK ?=
# Which tests `make test` runs, beside those that are alone.
TESTS ?= not alone and not long

.PHONY: demo test test-long lint clean

demo: $(VENV)/user.stamp
	rm -rf runs/demo
	JAX_PLATFORMS=cpu $(BIN)/python train.py --config=configs/digits.py --workdir=runs/demo

test: $(VENV)/dev.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m "$(TESTS)"
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m alone -n0

test-long: $(VENV)/dev.stamp
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m long

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

clean:
	rm -rf $(VENV)

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Twoplayer needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/user.stamp: requirements.txt $(VENV)/python.stamp
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

ifdef LOCK
$(VENV)/dev.stamp: $(LOCK) $(VENV)/python.stamp
	$(BIN)/pip install --quiet --require-hashes -r $(LOCK)
	touch $@
else
$(VENV)/dev.stamp: requirements-dev.txt requirements-test.txt $(VENV)/user.stamp
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@
endif
