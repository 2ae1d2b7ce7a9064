# Needs Python 3.10 or later and nothing else: every target makes .venv and installs into it on first use.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
BENCH := .venv/bench

.PHONY: demo test test-full test-s3 lint drills docs bench clean

demo: $(READY)
	$(BIN)/covseg-ray demo

# The fast tier. COVERAGE: what test-full measures coverage with.
COVERAGE =
PYTEST := $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder
test: lint
	$(PYTEST) $(COVERAGE)

# The fast tier and the rest. docs/develop/testing.md says what each holds.
test-full: COVERAGE = --cov --cov-report= --cov-fail-under=0
test-full: test
	$(PYTEST) -m "full and not drill and not alone" --cov --cov-append --cov-report= --cov-fail-under=0
	$(BIN)/pytest -m "alone and not drill" --cov --cov-append --cov-report=term-missing:skip-covered

# What reads or writes a bucket, once more: on the server at AWS_ENDPOINT_URL. Not whole runs, for time.
test-s3: $(READY)
	$(PYTEST) -m "s3 and not full and not drill" --ignore tests/engine

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
MODEL ?= covid-qu-ex
ENGINE ?= auto
ROUNDS ?= 5
COUNT ?= 256
SIZES ?= 1000,10000,100000
bench: $(BENCH)
	$(BIN)/python benchmarks/report.py --model "$(MODEL)" --engine $(ENGINE) --rounds $(ROUNDS) --sizes $(SIZES) \
		--films "$(FILMS)" --count $(COUNT) --s3 "$(S3)" --int8 "$(INT8)" --daft .venv/daft $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf .venv

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("covseg-ray needs Python 3.10 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -e '.[test,docs,mlflow,dicom,openvino,int8,onnx,imagenet]' -c constraints.txt
	touch $@

$(BENCH): $(READY) benchmarks/peers/daft.txt
	$(BIN)/python -m pip install --quiet -e '.[bench]' -c constraints.txt
	$(BIN)/python -m pip install --quiet --upgrade --target .venv/daft -r benchmarks/peers/daft.txt
	touch $@
