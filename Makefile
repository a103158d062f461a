# Two commands for newcomers: `make demo` and `make test`. Both create what they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 0
OUT ?= runs/demo
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check docs fix install bench bench-quick clean

demo: $(VENV)/.installed
	$(BIN)/bbqrec demo --out $(OUT) --seed $(SEED)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests benchmarks examples docs/hooks.py
	$(BIN)/ruff check src tests benchmarks examples docs/hooks.py
	$(BIN)/mypy
	$(BIN)/lint-imports

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix src tests benchmarks examples docs/hooks.py
	$(BIN)/ruff format src tests benchmarks examples docs/hooks.py

# Into site/, to be read from disk or put on any server; a broken link or reference is an error.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

install: $(VENV)/.installed-dev

# Each script is a process of its own; nothing else should run beside them. Results go to
# docs/performance/*.jsonl, and docs/performance.md is written from all that are there.
BENCHMARKS := decode breakdown scaling history index train tokenizer latency end_to_end
bench: $(BENCHMARKS:%=bench-%)
	$(BIN)/python benchmarks/performance.py

bench-%: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/$*.py

# Under a minute, with loose floors: fails where a ratio is lost, not where the machine is busy.
bench-quick: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/quick.py --quick

# Torch first and alone: its build (CPU, CUDA) is the machine's choice, everything else follows it.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: Python 3.11 or newer with venv is needed (Debian: apt install python3-venv); or set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check $(TORCH)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml constraints.txt
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) runs
