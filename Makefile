# Start with `make demo` and `make test`. `make help` lists all targets.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
BIN := .venv/bin
LOCK := .ci/requirements.txt
PROGRAM_LOCK := .ci/program.txt
INSTALLED := .venv/.installed
PROGRAM := .venv/.program

# Many tests wait for other processes, so one worker more than there are cores.
WORKERS = $(shell $(BIN)/python -c "import os; print(min(4, 1 + os.cpu_count()))")

# Tests start many processes: these find compiled modules, whatever the environment says.
export PYTHONDONTWRITEBYTECODE =

HERE = BATCHLIC_STATE_DIR="$(CURDIR)/runs"

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow docs onboard migrate sandbox sample soak fuzz kill mutants replay \
	bench bench-plan bench-keep bench-databases bench-submit bench-pace bench-limiter bench-journal bench-ledger \
	bench-listener bench-report bench-runs bench-scale plot-limiter demo-sync demo-callbacks demo-cluster test-callbacks docs-answers docs-schema screenshots \
	man size dist audit image release-check \
	lint coverage format lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv with batchlic and its development tools, pinned by hash

$(INSTALLED): pyproject.toml $(LOCK)
	$(call install,$(LOCK))
	@touch $(PROGRAM) $@

# A demo needs no development tools, and a fifth of the packages.
$(PROGRAM): pyproject.toml $(PROGRAM_LOCK)
	$(call install,$(PROGRAM_LOCK))
	@touch $@

demo: $(PROGRAM) ## license the sample fleet against a sandbox carrier on this machine
	@$(HERE) $(BIN)/batchlic run jobs/demo.toml --sandbox

demo-callbacks: $(PROGRAM) ## run the demo, and wait for the callback of each device
	@$(HERE) $(BIN)/batchlic run jobs/demo_callbacks.toml --sandbox --wait-callbacks 5m --listen-port 0 || test $$? -eq 3

# The carrier of --sandbox starts empty, so this demo starts one that stays for all runs.
demo-sync: $(PROGRAM) ## license a fleet at a sandbox, then sync a list that lacks some of its devices
	@BATCHLIC="$(BIN)/batchlic" sh jobs/demo_sync.sh

demo-cluster: $(INSTALLED) ## send from two workers with PostgreSQL, and kill one of them: nothing is lost or sent twice
	@PYTHONPATH=. $(BIN)/python jobs/demo_cluster.py

test: $(INSTALLED) ## run the tests, but those that are slow
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m "not slow"

test-slow: $(INSTALLED) ## run the slow tests, one in eight
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -m slow

docs: $(INSTALLED) ## build the documentation site into site/: every warning ends the build
	@PYTHONPATH=. $(BIN)/python -m docs.builder
	@echo "Open site/index.html"

onboard: $(INSTALLED) ## assign licenses to a fleet: make onboard INVENTORY=… ACCOUNT=… SKU=… [OPTIONS=…]
	$(call need,INVENTORY ACCOUNT SKU)
	@$(BIN)/batchlic assign "$$INVENTORY" --account "$$ACCOUNT" --sku "$$SKU" $(OPTIONS) \
		|| $(call tell_code,assign "$$INVENTORY" --account "$$ACCOUNT" --sku "$$SKU" $(OPTIONS))

migrate: $(INSTALLED) ## move a fleet to another SKU: make migrate INVENTORY=… ACCOUNT=… FROM_SKU=… TO_SKU=… [OPTIONS=…]
	$(call need,INVENTORY ACCOUNT FROM_SKU TO_SKU)
	@$(BIN)/batchlic migrate "$$INVENTORY" --account "$$ACCOUNT" --from-sku "$$FROM_SKU" --to-sku "$$TO_SKU" \
		$(OPTIONS) || $(call tell_code,migrate "$$INVENTORY" --account "$$ACCOUNT" --from-sku "$$FROM_SKU" \
		--to-sku "$$TO_SKU" $(OPTIONS))

sandbox: $(INSTALLED) ## start a sandbox carrier: make sandbox [OPTIONS='--rate 50 --fault reset-after=0.01']
	@$(BIN)/batchlic sandbox $(OPTIONS)

sample: $(INSTALLED) ## generate a large inventory: make sample ROWS=1000000 [OUT=fleet.csv]
	@$(BIN)/python sample_data/generate.py --rows $(or $(ROWS),1000000) --out $(or $(OUT),fleet-$(or $(ROWS),1000000).csv)

soak: $(INSTALLED) ## simulate runs with random faults: make soak [SCENARIOS=10000] [SEED=0] [BACKEND=store]
	@SCENARIOS=$(or $(SCENARIOS),10000) SEED=$(or $(SEED),0) $(BIN)/pytest -n $(WORKERS) --dist loadfile -q tests/simulation

fuzz: $(INSTALLED) ## run property tests longer, and plan random files of all formats: make fuzz [EXAMPLES=1000] [ROWS=1000000] [SEED=…]
	@EXAMPLES=$(or $(EXAMPLES),1000) $(BIN)/pytest -n $(WORKERS) --dist worksteal -m hypothesis
	@PYTHONPATH=. $(BIN)/python tests/reader/million_rows.py --rows $(or $(ROWS),1000000) $(if $(SEED),--seed $(SEED))

kill: $(INSTALLED) ## kill and resume real processes many times, and recover on the store: make kill [KILLS=50]
	@KILLS=$(or $(KILLS),50) STORE_KILLS=20 WORKER_KILLS=10 STRIDE=1 BACKEND=store $(BIN)/pytest -q tests/recovery \
		tests/endtoend/test_interruptions.py tests/endtoend/test_migration.py tests/callbacks/test_killed.py \
		tests/cluster/test_runs.py tests/store/test_killed_server.py

mutants: $(INSTALLED) ## change the code that decides, and list what no test notices: make mutants [MODULE="journal/status …"]
	@$(BIN)/python tests/mutation/run.py $(MODULE)

replay: $(INSTALLED) ## repeat the simulation of one seed: make replay SEED=… [BACKEND=store]
	$(call need,SEED)
	@SCENARIOS=1 SEED=$(SEED) $(BIN)/pytest tests/simulation

bench: bench-plan bench-keep bench-databases bench-submit bench-pace bench-limiter bench-journal bench-ledger bench-listener bench-report bench-runs bench-scale ## run all benchmarks

bench-plan: $(INSTALLED) ## measure planning, compared with a plain copy and DuckDB, and its formats: make bench-plan [ROWS=100000000]
	@$(BIN)/python tests/benchmarks/plan.py $(ROWS)

bench-keep: $(INSTALLED) ## measure planning and a whole run with two kept columns: make bench-keep [ROWS="1000000 10000000"]
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/keep.py $(ROWS)

bench-databases: $(INSTALLED) ## measure planning from SQLite, DuckDB and PostgreSQL, compared with CSV: make bench-databases [ROWS=1000000]
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/databases.py $(ROWS)

bench-submit: $(INSTALLED) ## measure a whole run, compared with loops that only send: make bench-submit [DEVICES="100000 1000000"]
	@$(BIN)/python tests/benchmarks/submit.py $(DEVICES)

bench-pace: $(INSTALLED) ## measure the limiter under known kinds of limits, compared with other limiters
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks.limiter

bench-limiter: $(INSTALLED) ## measure the limiter under limits drawn at random: make bench-limiter [RANDOM=200] [SEED=1]
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks.limiter --random $(or $(RANDOM),200) --seed $(or $(SEED),1)
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks.limiter.sharing

plot-limiter: $(INSTALLED) ## draw what the limiter does under each kind of limit, for docs/explanation/limiter.md
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks.limiter.plots

bench-journal: $(INSTALLED) ## measure the journal: time per batch, resuming 100,000 batches, size on disk
	@$(BIN)/python tests/benchmarks/journal.py

bench-ledger: $(INSTALLED) ## measure planning with a ledger that has all devices: make bench-ledger [ROWS="1000000 10000000"]
	@$(BIN)/python tests/benchmarks/ledger.py $(ROWS)

bench-listener: $(INSTALLED) ## measure the listener, compared with one that does not store, and reconciling
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/listener.py

bench-report: $(INSTALLED) ## measure the report of large runs: make bench-report [DEVICES="1000000 10000000"]
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/report.py $(DEVICES)

bench-runs: $(INSTALLED) ## measure listing many runs, and searching a device in them: make bench-runs [RUNS="100 1000"]
	@PYTHONPATH=. $(BIN)/python tests/benchmarks/runs.py $(RUNS)

bench-scale: $(INSTALLED) ## measure journals in PostgreSQL, take-over, workers, many accounts: make bench-scale [PARTS="journals takeover workers accounts"]
	@PYTHONPATH=. $(BIN)/python -m tests.benchmarks.scale $(PARTS)

test-callbacks: $(INSTALLED) ## test a whole run with callbacks: make test-callbacks [DEVICES=100000]
	@LOOP_DEVICES=$(or $(DEVICES),100000) $(BIN)/pytest -q tests/callbacks/test_loop.py

docs-answers: $(INSTALLED) ## write docs/reference/answers.md from the tables of answers
	@$(BIN)/python -m batchlic.carrier.rules_page > docs/reference/answers.md

docs-schema: $(INSTALLED) ## write jobs/batchlic-job.schema.json from the models of job files
	@$(BIN)/batchlic schema > jobs/batchlic-job.schema.json

screenshots: $(INSTALLED) ## make the pictures in docs/images from runs against the sandbox (needs Chromium, 5 minutes)
	@PYTHONPATH=. $(BIN)/python tests/web/screenshots.py

man: $(INSTALLED) ## write docs/man/batchlic.1 from the commands
	@$(BIN)/python -m tests.packaging.man_page

size: $(INSTALLED) ## measure what `pip install batchlic` and each extra install
	@$(BIN)/python -m tests.packaging.size

dist: $(INSTALLED) ## build the wheel and the sdist in dist/
	@$(BIN)/hatchling build --target sdist --target wheel

# Without --strict, pip-audit would pass if its service knew none of the packages.
audit: $(INSTALLED) ## write dist/batchlic.cdx.json (SBOM), and look for known vulnerabilities: make audit [OSV_URL=…]
	@mkdir -p build dist
	@$(BIN)/uv venv --quiet --clear build/main
	@$(BIN)/uv pip install --quiet --python build/main --constraints $(LOCK) --requirements pyproject.toml
	@$(BIN)/cyclonedx-py environment build/main --pyproject pyproject.toml --output-reproducible \
		--output-file dist/batchlic.cdx.json
	@$(BIN)/pip-audit --strict --progress-spinner off --disable-pip --require-hashes --requirement $(LOCK) \
		$(if $(OSV_URL),--vulnerability-service osv --osv-url "$(OSV_URL)") \
		|| { echo "make audit: not clean. Either the table above lists vulnerabilities, or the advisory service did" \
		"not answer for a package: then nothing is known, so try again with network access, or with OSV_URL=…" >&2; exit 1; }

image: ## build the container image with podman, docker or buildah: make image [ENGINE=docker]
	@$(or $(ENGINE),podman) build --file Containerfile --build-arg REVISION="$$(git rev-parse HEAD)" --tag batchlic .

release-check: $(INSTALLED) ## check that version, changelog, man page, image and tag agree
	@$(BIN)/python -m tests.packaging.release

lint: $(INSTALLED) ## check style, types, the direction of imports, the Containerfile and the workflow
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/hadolint Containerfile
	@$(BIN)/zizmor --quiet --offline --no-progress .github
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

# The deselected test forbids large files, and coverage has to write one.
coverage: $(INSTALLED) ## run the tests and print branch coverage
	@$(BIN)/pytest -n $(WORKERS) --dist worksteal -q --cov --cov-report=term --deselect \
		tests/endtoend/test_interruptions.py::test_a_full_disk_is_exit_6_and_the_run_can_be_resumed

format: $(INSTALLED) ## fix and format the code with ruff
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: $(INSTALLED) ## renew the pinned requirements after changing pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--upgrade --group dev --output-file $(LOCK) pyproject.toml
	@$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--group build --constraints $(LOCK) --output-file $(PROGRAM_LOCK) pyproject.toml

clean: ## remove .venv and the files of the tools (never runs/)
	@rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage build dist site

install = @test -n "$(PYTHON)" || { echo "batchlic needs Python 3.11 or newer: install it, or give its path: make PYTHON=/path/to/python3 …" >&2; exit 2; } \
	&& { test -x $(BIN)/python || $(PYTHON) -m venv .venv; } \
	&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(1) \
	&& $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .

# make itself exits 2 after any failure (https://www.gnu.org/software/make/manual/html_node/Running.html).
tell_code = { code=$$?; echo "make $@: batchlic exited $$code, but make exits 2 after any failure." >&2; \
	echo "The same command with its own exit code:" >&2; for word in $(BIN)/batchlic $(1); do \
	printf " '%s'" "$$(printf %s "$$word" | sed "s/'/'\\\\''/g")" >&2; done; echo >&2; exit $$code; }

need = @for name in $(1); do test -n "$$(printenv $$name)" \
	|| { echo "make $@: $$name is missing: give $$name=… (see \`make help\`)" >&2; exit 2; }; done
