# Every target sets up what it needs; PYTHON may name another interpreter of 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# The engine that the integration is tested against has pins of its own, hence its own environment.
SGLANG_VERSION ?= 0.5.23
SGLANG_MATRIX ?= 0.5.11 0.5.12 0.5.13 0.5.14 0.5.15 0.5.16 0.5.17 0.5.18 0.5.19 0.5.20 0.5.21 \
	0.5.22 0.5.23
SGLANG := integrations/sglang

VLLM_VERSION ?= 0.32.0
VLLM_MATRIX ?= 0.25.1 0.26.0 0.27.0 0.27.1 0.28.0 0.29.0 0.30.0 0.31.0 0.32.0 0.33.0
VLLM := integrations/vllm

# Our distributions, as arguments of pip, and what says what is in them.
OWN := -e . -e packages/ring -e packages/actuatord -e $(SGLANG) -e $(VLLM)
OWN_FILES := pyproject.toml hatch_build.py $(wildcard packages/*/pyproject.toml) $(SGLANG)/pyproject.toml \
	$(VLLM)/pyproject.toml
SGLANG_VENV := .venv-sglang/$(SGLANG_VERSION)
SGLANG_BIN := $(SGLANG_VENV)/bin
SGLANG_READY := $(SGLANG_VENV)/.ready
SGLANG_LOCK := $(SGLANG)/requirements/sglang-$(SGLANG_VERSION).txt
VLLM_VENV := .venv-vllm/$(VLLM_VERSION)
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_READY := $(VLLM_VENV)/.ready
VLLM_LOCK := $(VLLM)/requirements/vllm-$(VLLM_VERSION).txt

# Installs what an engine's lock names into its environment: the CPU build of torch, where there is one, or else the
# usual one with the libraries that it needs.
PIP_INSTALL := -m pip install -q --disable-pip-version-check
define engine
$(1)/python $(PIP_INSTALL) --no-deps --require-hashes -r requirements/torch-cpu.txt 2>/dev/null || echo "no CPU build of torch"
$(1)/python $(PIP_INSTALL) --no-deps --require-hashes -r $(2)
$(1)/python $(PIP_INSTALL) torch==2.13.0
endef

.DEFAULT_GOAL := help
.PHONY: help metrics promtool chromium evidence evidence-search test-operations test-prometheus test-containers setup compiler demo test test-slow test-report test-ray attack attack-short fuzz \
	mutants kills chaos check format bench headline matrix fidelity calibrate docs docs-figures pictures packages lock lock-sglang \
	lock-vllm clean rehearse environments rdma sglang-setup test-sglang test-sglang-short test-gpu-bench sglang-matrix bench-sglang \
	vllm-setup test-vllm test-vllm-short vllm-matrix

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

$(READY): requirements/dev.lock $(OWN_FILES)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "voltana needs Python 3.11 or later; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/dev.lock
	$(BIN)/python $(PIP_INSTALL) --no-deps $(OWN)
	touch $@

setup: $(READY) ## make the virtual environment

compiler: # the tests' fake driver is written in C
	@command -v cc >/dev/null || command -v gcc >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	     && apt-get update -qq && apt-get install -y -qq gcc libc6-dev; } \
	|| echo "no C compiler: install gcc, or the tests against the fake driver are skipped"

demo: $(READY) ## simulate the default cluster under five policies
	$(BIN)/voltana simulate --out out/demo

test: $(READY) compiler ## run the tests
	$(BIN)/python -m pytest -n 2 -m "not slow and not attack and not browser and not ray and not prometheus and not chroot"

test-slow: $(READY) compiler ## run the long property tests and end-to-end runs
	$(BIN)/python -m pytest -n 2 -m slow

chromium: # Debian's browser, without a display
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	     && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	|| echo "no Chromium: install the package chromium, or what needs it is skipped"

test-report: $(READY) chromium ## open reports and the site in a headless Chromium, check links and search
	$(BIN)/python -m pytest -m browser tests/test_report_browser.py tests/test_site_browser.py

test-ray: $(READY) ## run sweeps on a local Ray cluster of two nodes (fetches Ray, 80 MB, once)
	$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/ray.lock
	$(BIN)/python -m pytest -m ray tests/test_sweep_ray.py

promtool: # Debian's Prometheus, whose service is none of ours
	@command -v prometheus >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	     && apt-get install -y -qq --no-install-recommends prometheus >/dev/null; } \
	|| echo "no Prometheus: install the package prometheus, or what needs it is skipped"

test-operations: $(READY) promtool ## check alert rules, metrics and manifests by promtool and schemas (22 MB, once)
	$(BIN)/python $(PIP_INSTALL) --require-hashes -r requirements/operations.lock
	$(BIN)/python -m pytest -n 2 tests/operations/test_alerts.py tests/operations/test_exposed.py tests/operations/test_manifests.py

test-prometheus: $(READY) compiler promtool ## scrape a rehearsed cluster with a real Prometheus, and fire alerts on purpose (5 min)
	$(BIN)/python -m pytest -n 0 -m prometheus tests/operations

test-containers: $(READY) ## execute Containerfiles, and the steps of docs/operations.md, in a Debian chroot (10 min, root)
	@command -v debootstrap >/dev/null || { apt-get update -qq && apt-get install -y -qq debootstrap >/dev/null; }
	$(BIN)/python -m pytest -n 0 -m chroot tests/operations

attack-short: $(READY) compiler ## attack daemon, agent, feed and launch: the part of `attack` that CI runs
	$(BIN)/python -m pytest -n 2 -m "attack and not crowd and not slow" tests/attack

attack: attack-short ## attack the router as well, one attack at a time, honest use beside it
	$(BIN)/python -m pytest -m "crowd and not slow" tests/attack

fuzz: $(READY) ## a million damaged messages each for daemon, ring, feed, agent control, router bodies
	$(BIN)/python -m pytest -n 2 -m slow -k million tests/attack tests/actuation/test_security.py

check: $(READY) ## lint, format, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_import_direction.py

format: $(READY) ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutants: $(READY) compiler ## change what keeps the guarantee in 100 places, and print what no test notices
	$(BIN)/python -m tools.mutants --sample $(or $(MUTANTS),100) --seed $(or $(SEED),0)

kills: $(READY) ## kill an agent 200 times under load; its account must claim no less than what happened
	$(BIN)/python $(SGLANG)/tests/unit/killed_agent.py --kills 200

rehearse: $(READY) compiler ## rehearse four policies, all processes as in production (10 min)
	$(BIN)/voltana rehearse examples/rehearsal.toml --rate 30 --duration 20 --factor 0.5 \
	    --policy static-max,static-low,voltana-v0.1,voltana --out out/rehearsal

chaos: $(READY) compiler ## kill and hang everything 200 times; every clock must come back
	$(BIN)/python -m tests.actuation.chaos --rounds 200

bench: $(READY) ## measure speed and accuracy, as rates and ratios
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.traces
	$(BIN)/python -m benchmarks.prediction
	$(BIN)/python -m benchmarks.predictors --quick
	$(BIN)/python -m benchmarks.actuation

environments: $(READY) ## measure the environments of daemon, core, plugin and agent
	$(BIN)/python -m benchmarks.environments

matrix: $(READY) ## the default policy on models, hardware and loads that it was not tuned on
	$(BIN)/python -m benchmarks.matrix

headline: $(READY) ## compare the default policy with the published one, rate by rate
	$(BIN)/python -m benchmarks.headline

fidelity: $(READY) ## hold the plant against real measurements
	$(BIN)/python -m benchmarks.fidelity

calibrate: $(READY) ## fit the plant's coefficients again from ../shared/data
	$(BIN)/python -m tools.calibration

docs: $(READY) ## build the documentation as a site, strictly: out/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -q

pictures: $(READY) ## draw the documentation's drawings, and run its notebooks
	$(BIN)/python -m tools.site.pictures
	$(BIN)/python -m tools.site.notebooks

packages: $(READY) ## build all distributions, install them into empty environments, and run them
	$(BIN)/python -m tools.packages

evidence: $(READY) chromium ## make figures and tables of docs/reproduce.md, reproduce-findings.md and report.md anew
	$(BIN)/python -m tools.site.evidence

evidence-search: $(READY) ## add best-fixed to docs/reproduce.md: the main result whole, with its search
	$(BIN)/python -m tools.site.evidence main-result

metrics: $(READY) ## write docs/metrics.md and the dashboard from the declarations
	$(BIN)/python -m tools.metrics_page
	$(BIN)/python -m tools.dashboard

docs-figures: demo ## put the demo's tables and plots, and those of the analysis, into the documentation
	$(BIN)/voltana analyze --out out/analysis
	$(BIN)/python docs/refresh.py

lock: $(READY) ## pin the dependencies anew
	$(BIN)/uv pip compile pyproject.toml --extra all --extra docs --extra test --extra dev --universal --generate-hashes --no-emit-index-url \
	    --no-emit-package voltana-ring --no-emit-package voltana-actuatord \
	    --no-header --no-annotate --python-version 3.11 --upgrade -q -o requirements/dev.lock
	$(BIN)/uv pip compile pyproject.toml --extra ray --universal --generate-hashes --no-emit-index-url \
	    --no-emit-package voltana-ring --no-emit-package voltana-actuatord -c requirements/dev.lock \
	    --no-header --no-annotate --python-version 3.11 -q -o requirements/ray.lock
	$(BIN)/uv pip compile pyproject.toml --extra serving --universal --generate-hashes --no-emit-index-url \
	    --no-emit-package voltana-ring --no-emit-package voltana-actuatord -c requirements/dev.lock \
	    --no-header --no-annotate --python-version 3.11 -q -o requirements/serving.lock
	$(BIN)/uv pip compile packages/actuatord/pyproject.toml --universal --generate-hashes --no-emit-index-url \
	    -c requirements/dev.lock --no-header --no-annotate --python-version 3.11 -q -o requirements/actuatord.lock
	echo "kubernetes-validate>=1.37" | $(BIN)/uv pip compile - --universal --generate-hashes --no-emit-index-url \
	    -c requirements/dev.lock --no-header --no-annotate --python-version 3.11 --upgrade -q -o requirements/operations.lock

lock-sglang: $(READY) ## give the pins of the SGLang environments their hashes anew
	$(BIN)/python -m tools.engine_locks sglang

lock-vllm: $(READY) ## likewise those of the vLLM environment
	$(BIN)/python -m tools.engine_locks vllm

$(SGLANG_READY): $(SGLANG_LOCK) $(OWN_FILES) $(wildcard $(SGLANG)/cpu/*/*.py)
	$(PYTHON) -m venv $(SGLANG_VENV)
	$(call engine,$(SGLANG_BIN),$(SGLANG_LOCK))
	$(SGLANG_BIN)/python $(PIP_INSTALL) --no-deps $(OWN) $(SGLANG)/cpu
	touch $@

rdma: # Mooncake's library links against it, even where it transfers over TCP
	@ldconfig -p | grep -q libibverbs.so.1 \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	     && apt-get update -qq && apt-get install -y -qq libibverbs1; } \
	|| { echo "no libibverbs: install the package libibverbs1 (RDMA user library)"; exit 1; }

sglang-setup: rdma $(SGLANG_READY) ## make the environment with a real SGLang (SGLANG_VERSION=)

test-sglang: sglang-setup $(READY) compiler ## test the integration against real SGLang servers on the CPU
	$(SGLANG_BIN)/python -m pytest $(SGLANG)/tests/real --ignore=$(SGLANG)/tests/real/test_gpu_bench.py

test-sglang-short: sglang-setup $(READY) compiler ## the part of it that CI runs: all but profiles and prefix caches
	$(SGLANG_BIN)/python -m pytest $(SGLANG)/tests/real --ignore=$(SGLANG)/tests/real/test_gpu_bench.py \
	    --ignore=$(SGLANG)/tests/real/test_profile_run.py --ignore=$(SGLANG)/tests/real/test_colocated_cache.py

test-gpu-bench: sglang-setup $(READY) compiler ## run the benchmark of GPUs whole, on a fake one
	$(SGLANG_BIN)/python -m pytest $(SGLANG)/tests/real/test_gpu_bench.py

sglang-matrix: ## fetch every SGLang since 0.5.11 and check what the plugin relies on
	$(PYTHON) -m tools.sglang_signatures $(SGLANG_MATRIX)

bench-sglang: sglang-setup ## measure the plugin's overhead and the router, as ratios
	$(SGLANG_BIN)/python -m benchmarks.sglang

$(VLLM_READY): $(VLLM_LOCK) $(OWN_FILES)
	$(PYTHON) -m venv $(VLLM_VENV)
	$(call engine,$(VLLM_BIN),$(VLLM_LOCK))
	$(VLLM_BIN)/python $(PIP_INSTALL) --no-deps $(OWN)
	touch $@

vllm-setup: $(VLLM_READY) ## make the environment with a real vLLM and NIXL (4 GB)

test-vllm-short: vllm-setup $(READY) ## the part of `test-vllm` that CI runs: one server
	$(BIN)/python -m pytest -s $(VLLM)/tests/real/test_vllm_measures.py -k 'plain and measured'

test-vllm: vllm-setup $(READY) compiler ## test the integration against real vLLM servers on the CPU
	$(BIN)/python -m pytest -s $(VLLM)/tests/real

vllm-matrix: ## read the last ten vLLM releases in their wheels and check what the plugin relies on
	$(PYTHON) -m tools.vllm_signatures $(VLLM_MATRIX)

clean: ## remove what was built
	rm -rf $(VENV) .venv-sglang .venv-vllm out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
