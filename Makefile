# The same commands for people and for CI. Each does all its own set-up; `make demo` and `make test` are where to start.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := . $(sort $(wildcard plugins/*/ connectors/*/))
PROJECTS := $(foreach p,$(PACKAGES),$(wildcard $(p)/pyproject.toml))
STAMP := $(VENV)/.installed

.PHONY: demo test check generate bench soak docs clouds cloud-aws cloud-azure cloud-gcp lock packages services clean

demo: $(STAMP)
	@echo "A fleet of simulated devices over every protocol and to every cloud, about a minute:"
	$(BIN)/fleetcore demo

# One worker more than two processors: some tests wait for programs, and not for the processor.
test: $(STAMP) services
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not soak" tests plugins connectors

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python scripts/generate.py --check
	$(BIN)/python -m pytest -q tests/repository
	$(BIN)/mkdocs build --strict --quiet

# What follows from the code: typed methods, the catalogue, the reference pages, the pictures.
generate: $(STAMP)
	$(BIN)/python scripts/generate.py
	$(BIN)/python scripts/reference.py
	$(BIN)/python scripts/pictures.py
	$(BIN)/python scripts/notebook.py

bench: $(STAMP)
	@sh scripts/services.sh bench
	$(BIN)/python -m benchmarks

soak: $(STAMP) services
	$(BIN)/python -m pytest -m soak --timeout 7200 tests plugins connectors

docs: $(STAMP)
	$(BIN)/mkdocs serve

# Counterparts of the clouds on the loopback, with the lines of a fleet.toml that lead to them; until interrupted.
clouds: $(STAMP)
	@$(MAKE) --no-print-directory -j cloud-aws cloud-azure cloud-gcp

cloud-aws cloud-azure cloud-gcp: cloud-%: $(STAMP)
	$(BIN)/python -m fleetcore_$*.testing

# Builds a wheel of each package and runs its own tests in a fresh environment that holds nothing else.
packages: $(STAMP) services
	$(BIN)/python scripts/test_packages.py

services:
	@sh scripts/services.sh

# Keeps the versions that are there; needs uv, which it installs beside the environment.
lock:
	$(PYTHON) -m venv build/uv
	build/uv/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/uv/bin/python scripts/lock.py

$(STAMP): requirements.lock $(PROJECTS)
	$(PYTHON) scripts/check_python.py
	@echo "Installing fleetcore and its tools into $(VENV), about a minute; once."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
	  $(foreach p,$(PACKAGES),-e $(p))
	touch $@

clean:
	rm -rf $(VENV) dist build site
