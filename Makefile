.DEFAULT_GOAL := help
PY := .venv/bin/python
DEMO := demo-out
COUNT := 1000
SEED := 1
REPORT := benchmarks/results/faults.md

help:  ## print the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

env: .venv/.done  ## make .venv with everything that is needed
.venv/.done: pyproject.toml constraints.txt
	python3 -m venv .venv
	$(PY) -m pip install -q --upgrade 'pip>=24'
	# torch first and alone: a range would draw the CUDA build, gigabytes that a CPU cannot use
	$(PY) -m pip install -q -c constraints.txt torch==2.13.0
	$(PY) -m pip install -q -c constraints.txt -e '.[dev,remote,view]'
	touch $@

demo: env  ## mend a small phantom from end to end (CPU) and show the picture
	.venv/bin/zmend demo --out $(DEMO)

test: env  ## run the tests
	$(PY) -m pytest -n 2 --dist loadfile

faults: env  ## play seeded faults: 1,000 take an hour (COUNT=150 SEED=1 REPORT=build/faults.md; OUT=build/faults.jsonl goes on where it stopped)
	$(PY) -m tests.faults --count $(COUNT) --seed $(SEED) --report $(REPORT) $(if $(OUT),--out $(OUT))

check: env  ## ruff, mypy --strict, import contracts
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: env  ## run the benchmarks that take minutes; results go to benchmarks/results
	$(PY) -m benchmarks

pictures: env  ## draw the pictures of README and docs anew (needs chromium)
	$(PY) -m tests.browser.pictures $(DEMO)
	cp $(DEMO)/demo.png docs/demo.png

docs: env  ## build the pages of docs/ into build/docs
	$(PY) -m mkdocs build -q --strict -d build/docs

clean:  ## remove what the targets made
	rm -rf .venv $(DEMO) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.PHONY: help env demo test faults check bench pictures docs clean
