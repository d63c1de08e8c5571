# Everything a newcomer needs is `make demo` and `make test`; both make the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
STAMP := $(VENV)/.installed

# No cloud, no hub: what is not installed is not there.
export HF_HUB_OFFLINE := 1

.PHONY: setup demo demo-sweep test test-fast test-long fuzz faults check format bench docs models clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,dashboard]'
	touch $(STAMP)

demo: setup
	$(BIN)/python examples/demo.py

# Is the best of 12 trials better than the default spec? Some minutes on two cores.
demo-sweep: setup
	$(BIN)/python examples/demo_sweep.py

test: setup
	$(BIN)/pytest

test-fast: setup
	$(BIN)/pytest -m "not slow and not long"

# Thousands of requests for every route of the served document. `make fuzz EXAMPLES=5000` for a night.
EXAMPLES ?= 1000
fuzz: setup
	TRAINYARD_FUZZ_EXAMPLES=$(EXAMPLES) $(BIN)/pytest --timeout 0 tests/api/test_schema.py

# What `make test` has no time for: more clients, more storages, servers that stay away for a minute.
test-long: setup
	$(BIN)/pytest -m long

# Half an hour: real training under SIGKILLs at random moments. `make faults POINTS=40 SEED=7` for less.
POINTS ?= 200
SEED ?= 1
faults: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/run.py --points $(POINTS) --seed $(SEED)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --config pyproject.toml
	mkdir -p $(VENV)/types && ln -sfn $(CURDIR) $(VENV)/types/prefect_trainyard
	cd $(VENV)/types && MYPYPATH=. $(BIN)/mypy --config-file $(CURDIR)/pyproject.toml -p prefect_trainyard
	$(BIN)/python .ci/check_wheel.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/training_step.py
	$(BIN)/python benchmarks/loaders.py
	$(BIN)/python benchmarks/start_latency.py
	$(BIN)/python benchmarks/post_to_step.py
	$(BIN)/python benchmarks/recovery.py
	$(BIN)/python benchmarks/chain.py
	$(BIN)/python benchmarks/idle_memory.py
	$(BIN)/python benchmarks/request_rates.py
	$(BIN)/python benchmarks/demo_splits.py
	$(BIN)/python benchmarks/sweep_overhead.py
	$(BIN)/python benchmarks/sweep_epochs.py
	$(BIN)/python benchmarks/sweep_suggestions.py

# The pages that are made from the code.
docs: setup
	$(BIN)/trainyard networks --write docs/networks

# Does every network learn as well as its library does in a plain script? Hours; `make models SEEDS=1` a third of them.
SEEDS ?= 1 2 3
models: setup
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[models]'
	$(BIN)/python benchmarks/models.py --seeds $(SEEDS)

clean:
	rm -rf $(VENV) build dist *.egg-info
