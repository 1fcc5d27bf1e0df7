# Two commands matter to a newcomer: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The tests that make test leaves to make test-all.
FAST := not slow and not gpu
export PYTHONDONTWRITEBYTECODE = 1
export OMP_NUM_THREADS ?= 1

.PHONY: help install demo serve test test-all lint format bench bench-gpu bench-growth bench-door bench-queue bench-case pictures viewer system clean

help:
	@echo "make demo      the whole story on generated patients (about five minutes)"
	@echo "make serve     the same, then opens the reading room"
	@echo "make test      lint and the test suite"
	@echo "make test-all  with the slow suites"
	@echo "make bench     speed, as ratios against a baseline measured in the same run"
	@echo "make bench-gpu    the engine on CUDA devices; make bench-growth the whole triage for more and more studies"
	@echo "make system    Debian packages the tests use where present (run as root)"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or newer is needed; set PYTHON=..."; exit 2; }
	@# torch first: later requirements must not pull another build of it.
	$(BIN)/pip install --disable-pip-version-check -q "$$(grep '^torch==' constraints.txt)"
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/secondread demo

serve: install
	$(BIN)/secondread demo --serve

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "$(FAST)"

test-all: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "not gpu or gpu"

bench: install
	$(BIN)/python -m tests.benchmarks

bench-gpu: install
	$(BIN)/python -m tests.benchmarks.gpu

# Receiving, against a bare receiver and Orthanc.
bench-door: install
	$(BIN)/python -m tests.benchmarks.door

# The whole triage for 100 and 1 000 studies, in copies of a demo's home; STUDIES="100 1000 10000" takes hours.
STUDIES ?= 100 1000
bench-growth: install
	test -d build/growth-home || $(BIN)/secondread demo --home build/growth-home
	$(BIN)/python -m tests.benchmarks.growth build/growth-home --studies $(STUDIES)

# A hundred readers at a million open cases, on SQLite and PostgreSQL: the longest of all.
bench-queue: install
	$(BIN)/python -m tests.benchmarks.queue

# How soon a reader sees the first image, in Chromium.
bench-case: install
	$(BIN)/python -m tests.benchmarks.case_to_case

# The README's pictures, from a demo told in a folder of its own.
PICTURES := build/demo-for-pictures
pictures: install
	rm -rf $(PICTURES)
	$(BIN)/secondread demo --home $(PICTURES)
	$(BIN)/python -m tests.e2e.take_pictures $(PICTURES) tests/e2e/pictures

# The bundle of Cornerstone3D in pipeline/web/static/vendor, which is kept in the repository; needs Node 22.13 or newer.
viewer:
	cd pipeline/web/viewer_source && npm ci --ignore-scripts && npm run build

system:
	./docker/system-packages.sh

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
