# Two commands for a fresh machine: `make run` and `make test`. Each installs what is missing first.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: run test check clean

# Goes on if an earlier one was interrupted, and shows the result again if it is finished.
run: $(STAMP)
	$(BIN)/hpo run search_spaces/cnn.yaml --begin-or-resume

test: $(STAMP) check
	$(BIN)/pytest

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The exact set that the tests pass on. pip compiles on one core, which takes a minute longer;
# some packages ship files for other versions of Python, which cannot be compiled.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile \
		--constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m compileall -qq -j 0 .venv/lib || true
	touch $(STAMP)

clean:
	rm -rf .venv
