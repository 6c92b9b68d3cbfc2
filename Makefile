# `make reproduce` and `make test` set up all they need in .venv first; a second call reuses it.
# Variables, for example `make reproduce SCALE=gpu SEEDS=5 ITEMS="fig4 tab_cfg" JOBS=1 OUT=results`:
SCALE = cpu
# one run per row is enough to be held against the committed seeds; other scales have their own number
SEEDS = $(if $(filter cpu,$(SCALE)),1)
ITEMS =
JOBS =
OUT =
PEERS =
# The interpreter .venv is made from; by default the first of python3, python3.13, python3.12, python3.11 that is 3.11 to 3.13.
PYTHON =

BIN = .venv/bin

.PHONY: help reproduce test list bench lab export clean-notebooks readme
help:
	@echo 'make reproduce        the headline items at scale $(SCALE), each row once, held against the committed evidence (variables: SCALE SEEDS ITEMS JOBS OUT)'
	@echo 'make test             everything continuous integration runs'
	@echo 'make list             the items, what they show and what they cost'
	@echo 'make bench            ratios against hand-written and other code, into reports/bench/cpu.json (variable: PEERS, a folder of checkouts)'
	@echo 'make lab              JupyterLab in nbs/'
	@echo 'make export           notebooks -> nats_companion/, README.md and reports/README.md'
	@echo 'make clean-notebooks  strip outputs from nbs/'
	@echo 'make readme           nbs/index.ipynb -> README.md, and reports/ -> reports/README.md'

reproduce: .venv/.ready
	$(BIN)/nats-companion reproduce $(ITEMS) --scale $(SCALE) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(OUT),--out '$(OUT)') $(if $(JOBS),--jobs $(JOBS))

# One torch thread per process: more only contend on few cores, and results stay the same on machines of any size.
test: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests

list: .venv/.ready
	@$(BIN)/nats-companion list

bench: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/nats-companion bench $(if $(PEERS),--peers $(PEERS))

lab: .venv/.ready
	$(BIN)/jupyter lab nbs

export: .venv/.ready
	$(BIN)/nbdev_export
	$(BIN)/python .ci/readme.py

clean-notebooks: .venv/.ready
	$(BIN)/nbdev_clean

readme: .venv/.ready
	$(BIN)/python .ci/readme.py

# .ready is written last: an installation that was cut short is taken up again.
.venv/.ready: pyproject.toml .ci/constraints.txt .ci/setup
	@sh .ci/setup '$(PYTHON)'
	@touch $@
