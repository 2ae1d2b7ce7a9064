# Needs Python 3.10 or later and nothing else: every target makes .venv and installs into it on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
BENCH := .venv/bench

.PHONY: demo test lint drills docs bench clean

demo: $(READY)
	$(BIN)/covseg-ray demo

test: lint
	$(BIN)/pytest -m "not drill and not alone" -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report= --cov-fail-under=0
	$(BIN)/pytest -m "not drill and alone" --cov --cov-append --cov-report=term-missing:skip-covered

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

drills: $(READY)
	$(BIN)/pytest -m drill --timeout 3600

docs: $(READY)
	$(BIN)/mkdocs build --quiet --strict

# FILMS: a folder of PNG films (phantoms without it), COUNT of them for bulk segmentation, read from below S3
# (s3://BUCKET/PREFIX) where that is given. INT8: the model in 8-bit integers. ONLY: predict, segment, segment-int8, train,
# serve, cold and growth, with commas between; all without it. A SIZES of 1000000 takes an hour or more.
MODEL ?= models/covid-qu-ex
ENGINE ?= auto
ROUNDS ?= 5
COUNT ?= 256
SIZES ?= 1000,10000,100000
bench: $(BENCH)
	$(BIN)/python tests/bench/report.py --model "$(MODEL)" --engine $(ENGINE) --rounds $(ROUNDS) --sizes $(SIZES) \
		--films "$(FILMS)" --count $(COUNT) --s3 "$(S3)" --int8 "$(INT8)" --daft .venv/daft $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("covseg-ray needs Python 3.10 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[test,docs,mlflow,dicom,openvino,int8,onnx,imagenet]' -c constraints.txt
	touch $@

$(BENCH): $(READY) tests/bench/peers/daft.txt
	$(BIN)/python -m pip install --quiet -e '.[bench]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --upgrade --target .venv/daft -r tests/bench/peers/daft.txt
	touch $@
