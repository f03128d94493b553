# The two commands of a fresh machine: `make demo` (the main job on the bundled data, ends with its table), `make test`.
# `make system` (as root, on Debian) installs what pip cannot bring.
.DEFAULT_GOAL := help
.PHONY: help demo test test-fast check test-full bench bench-gpu system venv wheelhouse cluster cluster-down chaos clean

PYTHON ?= python3
BIN := .venv/bin

help:
	@echo "make demo       set up, build digits_glt, train three runs on it, print the table (4 to 8 minutes after set-up)"
	@echo "make test       set up, run the default test suite (6 to 15 minutes on 2 cores)"
	@echo "make test-fast  its pure parts (about a minute)"
	@echo "make check      linter, formatter and type checker (under a minute)"
	@echo "make test-full  also the long tests (about an hour; as root, with what make system installs)"
	@echo "make bench      the loader beside webdataset, ImageFolder, mosaicml-streaming, litdata, DALI, SPDL and ffcv, each in its own environment (rounds=5 only=224,access)"
	@echo "make bench-gpu  on one GPU: step, IFL, loader, waits, memory and resuming against a plain loop (minutes=15 only=engines,waits)"
	@echo "make system     Debian packages (as root): git, and for reports and all tests SLURM, LaTeX, Chromium and Fashion-MNIST"
	@echo "make cluster    a private SLURM of four nodes on this machine (as root); make cluster-down ends it"
	@echo "make chaos      hit jobs on such a cluster at random moments and compare what they end with (faults=20 seed=0 eval=job kinds=kill,cut)"
	@echo "make venv       only the environment: .venv with the pinned packages and the project itself (WHEELHOUSE=DIR: without internet)"
	@echo "make wheelhouse fetch the packages for a machine without internet (WHEELHOUSE=DIR; else wheelhouse/)"
	@echo "make clean      remove what demo and tests made (data/ runs/ out/), not the environment"

demo: venv
	@echo "== digits_glt: real scans of digits under six looks"
	@mkdir -p out
	@$(BIN)/python -m sharding.build data=digits_glt out=data $(if $(wildcard out/digits_glt.png),,preview=out/digits_glt.png)
	@echo "== three runs"
	@$(BIN)/python slurm/launch.py table=demo cluster=local nodes=2
	@echo "== the table"
	@$(BIN)/python -m analysis runs=runs out=out table=demo

# Three workers on two cores: a third of the time tests wait for pauses, disks and other processes. The slowest files
# begin (tests/conftest.py).
test: venv
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-fast: venv
	$(BIN)/python -m pytest -m fast

check: venv
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

test-full: venv
	$(BIN)/python -m pytest -m ""

bench: venv
	$(BIN)/python -m tests.bench.loader.run rounds=$(or $(rounds),5) $(if $(only),only=$(only))

bench-gpu: venv
	$(BIN)/python -m tests.bench.gpu minutes=$(or $(minutes),15) $(if $(only),only=$(only))

system:
	apt-get update
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends git make python3 python3-venv slurm-wlm munge iproute2 debootstrap texlive-latex-recommended latexmk poppler-utils chromium dataset-fashion-mnist

cluster: venv
	@$(BIN)/python -m tests.helpers.cluster up

cluster-down:
	@$(BIN)/python -m tests.helpers.cluster down

chaos: venv
	$(BIN)/python -m tests.system.chaos faults=$(or $(faults),20) seed=$(or $(seed),0) $(if $(eval),eval=$(eval)) $(if $(kinds),kinds=$(kinds))

venv: .venv/.installed

.venv/.installed: requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "set-up stopped: $(PYTHON) is not installed; Debian: apt-get install python3 python3-venv; or: make PYTHON=python3.11 ..."; exit 1; }
	@$(PYTHON) recipes/common/install.py $(if $(WHEELHOUSE),from "$(WHEELHOUSE)")

wheelhouse:
	@$(PYTHON) recipes/common/install.py into "$(or $(WHEELHOUSE),wheelhouse)"

clean:
	rm -rf data runs out
