# make run trains a model and lets it write, make test tests everything, make help lists the rest.

PYTHON ?= python3
CORPUS ?= datasets/cervantes.txt
VOCAB ?= 1024
PROMPT ?= En un lugar de la Mancha
# Linux without a GPU: TORCH_INDEX=https://download.pytorch.org/whl/cpu saves a download of several GB
TORCH_INDEX ?=

BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
READY := .venv/ready
NAME := $(basename $(notdir $(CORPUS)))$(VOCAB)
TOKENS := datasets/$(NAME)/meta.json
RUN := runs/$(NAME)-1
FINISHED := $(RUN)/result.json

.DEFAULT_GOAL := help
.PHONY: help run test lint lab docs bench shelf export refresh readme clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(FINISHED) ## train a model on CORPUS, about three minutes, and let it write; what is there is used again
	$(BIN)/python generate.py "$(PROMPT)" --run $(RUN)

test: $(READY) ## all tests
	$(BIN)/pytest -v

lint: $(READY) ## unused names, long lines, workflows, packages that do not fit together
	$(BIN)/ruff check
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/python -m pip check

lab: $(READY) ## the notebooks in JupyterLab, trusted, with hooks that keep them clean
	$(BIN)/nbdev_install_hooks
	$(BIN)/nbdev_trust
	$(BIN)/jupyter lab nbs

docs: $(READY) ## the site, in _docs
	$(BIN)/python tools/docs.py

bench: $(READY) ## measure against other tools, into benchmarks/results
	set -e; for name in tokenizer plain training generation; do $(BIN)/python benchmarks/$$name.py; done

shelf: $(FINISHED) ## the model of the book, models/quijote, of the run that make run has made
	$(BIN)/python export.py $(RUN) --to huggingface --precision bfloat16 --out models/quijote --force

export: $(READY) ## notebooks to package
	$(BIN)/nbdev_export
	$(BIN)/python tools/fold.py
	$(BIN)/nbdev_clean

refresh: $(READY) ## run all notebooks and store their outputs
	$(BIN)/python tools/refresh.py

readme: $(READY) ## nbs/index.ipynb, which lists the notebooks, and README.md from it
	$(BIN)/python tools/refresh.py nbs/index.ipynb
	$(BIN)/python tools/readme.py

clean: ## remove the site and what building leaves behind; the environment, token files and runs stay
	rm -rf _docs _proc build dist *.egg-info .pytest_cache .hypothesis

$(READY): settings.ini setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' || \
	  { echo 'mini_llm needs Python 3.11 to 3.14; name one: make $(MAKECMDGOALS) PYTHON=python3.13'; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[dev]' $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	@touch $@

$(TOKENS): $(CORPUS) | $(READY)
	$(BIN)/python dataset.py --train True --train_dataset $< --vocab_size $(VOCAB) --encode_dataset $<

$(FINISHED): | $(TOKENS)
	$(BIN)/python train.py $(if $(wildcard $(RUN)/train.json),--resume $(RUN),--data datasets/$(NAME))
