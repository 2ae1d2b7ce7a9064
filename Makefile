# Needs Python 3.10 or later and nothing else: every target makes .venv and installs into it on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test lint drills bench clean

demo: $(READY)
	$(BIN)/covseg-ray demo

test: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

drills: $(READY)
	$(BIN)/pytest -m drill --timeout 3600

bench: $(READY)
	$(BIN)/python tests/bench/train_ratio.py

clean:
	rm -rf .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("covseg-ray needs Python 3.10 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[test,mlflow,dicom,openvino,int8,onnx]' -c constraints.txt
	touch $@
