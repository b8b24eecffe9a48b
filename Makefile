# Two commands: `make demo` and `make test`. Everything lives in .venv and exp/.
PYTHON ?= python3
VENV := .venv
ASR := $(VENV)/bin/asr
DEMO_FLAGS :=
# The environment is made again only when what goes into it changes.
STAMP := $(VENV)/stamp-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: demo test gpu lint types clean

demo: $(STAMP)
	$(ASR) prepare digits
	rm -rf exp/digits
	$(ASR) train recipes/digits/digits.yaml $(DEMO_FLAGS)
	$(ASR) evaluate exp/digits/bundle data/digits/test
	$(ASR) transcribe --model exp/digits/bundle --json $$(ls data/digits/audio/test/*/*.opus | head -1)

test: $(STAMP)
	$(VENV)/bin/python -m pytest

# The tests and benchmarks that need a GPU.
gpu: $(STAMP)
	$(VENV)/bin/python -m pytest -m gpu
	$(VENV)/bin/python -m benchmarks.training --device cuda
	$(VENV)/bin/python -m benchmarks.recurrence --device cuda --batches 32 128 --frames 300 --hidden 256 512
	$(VENV)/bin/python -m benchmarks.ctc --device cuda

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/mypy

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,serve,dev]'
	touch $@

clean:
	rm -rf $(VENV) exp data
