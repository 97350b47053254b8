# Lathe from source. `make run` builds what is missing and serves the studio; `make test` runs every check.
#
#   make run ARGS="--port 8000 --home DIR"     flags of `lathe` are passed on
#   make run CUDA=1                            with the worker for NVIDIA GPUs beside it
#   make build | ui | cuda-worker | test | test-smollm2 | fuzz | fmt | lint | starter | clean
#
# Cargo's own variables (CARGO_TARGET_DIR, CARGO_BUILD_JOBS) are honoured.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.DELETE_ON_ERROR:

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
LATHE := $(TARGET)/release/lathe
WASM := wasm32-unknown-unknown
UI := static/dist/index.html
# `make test` makes everything in cargo's dev profile, `make build` in release: neither compiles the bundler twice.
BUNDLE := $(if $(filter test lint,$(MAKECMDGOALS)),,--release)

.PHONY: run build ui cuda-worker test test-smollm2 fuzz browser-tools fmt lint starter clean

run: build
	$(LATHE) $(ARGS)

build: ui $(if $(filter-out 0,$(CUDA)),cuda-worker)
	$(CARGO) build --release --locked -p cli --bin lathe

# ---- the worker for NVIDIA GPUs ---------------------------------------------------------------------------------
# An executable of its own, since it starts only where CUDA's libraries are. Without nvcc on the PATH, a toolchain is
# made from PyPI's packages first. The worker looks for its libraries in the folder `cuda` beside it, and then where
# the system has them.

WORKER := $(TARGET)/release/lathe-cuda-worker

cuda-worker:
	@if ! command -v nvcc >/dev/null; then \
	  env=$$(scripts/cuda-toolchain.sh $(abspath $(TARGET))/cuda-toolchain); eval "$$env"; fi; set -x; \
	$(CARGO) build --release --locked -p cli --features cuda --bin lathe-cuda-worker; \
	strip $(WORKER); ln -sfn "$${CUDA_HOME:-/usr/local/cuda}/lib64" $(TARGET)/release/cuda

# ---- the user interface -----------------------------------------------------------------------------------------
# Where the wasm32 target can't be had, the binary is built all the same and serves a page that says so.

ui:
	@if $(has_wasm) || rustup target add $(WASM); then $(MAKE) --no-print-directory BUNDLE="$(BUNDLE)" $(UI); \
	else echo "The wasm32 target is missing (rustup target add $(WASM)): Lathe is built without its user interface." >&2; fi

has_wasm = test -d "$$(rustc --print sysroot)/lib/rustlib/$(WASM)/lib"

# By time of change, so that files which are as they were don't make cargo embed them again.
$(UI): $(shell find api/src frontend -type f -not -path '*/target/*') Cargo.lock Cargo.toml
	$(CARGO) build --locked -p frontend --profile wasm --target $(WASM)
	$(CARGO) run --locked -p bundle $(BUNDLE) -- $(TARGET)/$(WASM)/wasm/frontend.wasm static/dist
	@touch $@

# ---- checks -----------------------------------------------------------------------------------------------------

test: browser-tools ui lint
	$(CARGO) test --locked --workspace

# With a real model, against PyTorch, transformers and PEFT in a venv of their own (6 GB, made once; LATHE_ORACLES says
# where). LATHE_DATA: a folder with LLaMA-Factory's identity.json. About a quarter of an hour.
ORACLES := $(abspath $(or $(LATHE_ORACLES),$(TARGET)/oracles))

test-smollm2:
	scripts/oracle-venv.sh $(ORACLES)
	LATHE_ORACLES=$(ORACLES) $(CARGO) test --locked -p engine --test smollm2 --test decoding -- --nocapture --test-threads 1
	LATHE_ORACLES=$(ORACLES) $(CARGO) test --locked -p cli --test identity_smollm2 -- --ignored --nocapture

# A minute of cargo-fuzz for each target (FUZZ_SECONDS), with nightly Rust; where that can't be had, of plain changes to the
# committed corpus, as always for what reads requests. What is found lies in fuzz/artifacts: mend it, and put the file into
# fuzz/corpus/TARGET as found-…. Each target gets a line in fuzz/LEDGER.md. Longer: make fuzz FUZZ_SECONDS=3600
FUZZ_SECONDS ?= 60
FUZZ_REQUESTS = door names config upload
FUZZ_TARGETS = $(filter-out $(FUZZ_REQUESTS),$(notdir $(wildcard fuzz/corpus/*)))

fuzz:
	@if { cargo +nightly fuzz --version >/dev/null 2>&1 \
	  || { rustup toolchain install nightly --profile minimal && $(CARGO) install --locked cargo-fuzz; }; } \
	  && (cd fuzz; cargo +nightly fuzz build --fuzz-dir .); then cd fuzz; \
	  for target in $(FUZZ_TARGETS); do mkdir -p found/$$target artifacts/$$target; \
	    before=$$(ls artifacts/$$target | wc -l); ended=0; \
	    cargo +nightly fuzz run --fuzz-dir . $$target found/$$target corpus/$$target -- \
	      -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 2>&1 \
	      | tee found/$$target.log || ended=$$?; \
	    runs=$$(sed -n 's/^stat::number_of_executed_units: *//p' found/$$target.log); \
	    echo "| $$target | cargo-fuzz | $$(date -u +%F) | $${runs:-0} | $(FUZZ_SECONDS) | $$(( $$(ls artifacts/$$target | wc -l) - before )) |" \
	      >> LEDGER.md; [ "$$ended" = 0 ] || exit "$$ended"; done; cd ..; \
	else echo "cargo-fuzz can't be had: changing the corpus without it." >&2; \
	  LATHE_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked -p engine --test corpus -- --ignored --nocapture; fi
	LATHE_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked -p server --lib corpus -- --ignored --nocapture

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt:
	$(CARGO) fmt --all

# Chromium and its driver, from Debian's packages where they are missing.
browser-tools:
	@if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then \
	  sudo=; if [ "$$(id -u)" != 0 ]; then sudo=sudo; fi; \
	  { command -v apt-get >/dev/null && { [ -z "$$sudo" ] || command -v sudo >/dev/null; } \
	    && $$sudo apt-get update -q && $$sudo apt-get install -y -q --no-install-recommends chromium chromium-driver; } \
	  || { echo "The browser tests need chromium and chromedriver, which could not be installed." >&2; \
	       echo "Install them (Debian: chromium chromium-driver), then run make test again." >&2; exit 1; }; \
	fi

# ---- the starter model, made again (models/README.md) -----------------------------------------------------------

starter: build
	$(CARGO) run --release --locked -p engine --example starter -- $(TARGET)/starter --seed 1
	$(LATHE) --home $(TARGET)/starter/home train $(TARGET)/starter/pretrain.yaml
	rm -rf $(TARGET)/starter/model
	$(CARGO) run --release --locked -p engine --example starter -- spread \
	  $(TARGET)/starter/run $(TARGET)/starter/corpus.jsonl $(TARGET)/starter/model
	mkdir -p models/starter
	cp $(TARGET)/starter/model/* models/starter/

clean:
	$(CARGO) clean
	find static/dist -type f ! -name .gitkeep -delete
