# A toy world: two SFT models of 0.26 million parameters, preference pairs, prompts. Two minutes on
# two CPU cores with `make -j2 -f toy.mk`.

EXAMPLES ?= ..
PYTHON   ?= python
export OMP_NUM_THREADS = 1

all: sft-a/config.json sft-b/config.json prefs.jsonl prompts.jsonl heldout.jsonl

world/heldout.jsonl:
	$(PYTHON) $(EXAMPLES)/world.py world

sft-%/config.json: world/heldout.jsonl
	$(PYTHON) $(EXAMPLES)/sft.py world/base --data world/sft.jsonl $(share) -o sft-$*

sft-a/config.json: share = --seed 1 --share 1/2
sft-b/config.json: share = --seed 2 --share 2/2

prefs.jsonl: sft-a/config.json
	$(PYTHON) $(EXAMPLES)/preferences.py sft-a --prompts world/prompts.jsonl -o $@

prompts.jsonl heldout.jsonl: world/heldout.jsonl
	cp world/$@ $@

.PHONY: all
