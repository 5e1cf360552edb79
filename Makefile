# Two commands matter: `make demo` plays the walk-through, `make test` passes the tests.  Both set up what they need.
.PHONY: demo test lint types check bench clean
bin := .venv/bin

demo:
	scripts/setup.sh run
	scripts/demo.sh

test:
	scripts/setup.sh test
	$(MAKE) --no-print-directory lint types
	test -e .cache/debian.tar || scripts/base-image.sh .cache/debian.tar
	$(bin)/pytest -n 2 --dist loadgroup

lint:
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/lint-imports

types:
	$(bin)/mypy
	$(bin)/pyright

bench:
	scripts/setup.sh test
	test -e .cache/debian.tar || scripts/base-image.sh .cache/debian.tar
	# As a user has it: without the packages that development brings.
	test -x .cache/venv/bin/lamella || { /usr/bin/python3 -m venv .cache/venv && .cache/venv/bin/pip install --quiet --editable .; }
	$(bin)/python -m bench
	$(bin)/python -m bench.build
	$(bin)/python -m bench.pull

clean:
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
