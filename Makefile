# Front door of the station. `make help` lists what there is.

SHELL := /bin/bash
CARGO ?= cargo
SECONDS_PER_TARGET = $(or $(SECONDS),20)
PROFILE := --release

# Tools of Debian that a target needs, as tool:package.
RUN_TOOLS := ip:iproute2 tc:iproute2 nft:nftables ethtool:ethtool nsenter:util-linux unshare:util-linux
TEST_TOOLS := $(RUN_TOOLS) redis-server:redis-server ping:iputils-ping tcpdump:tcpdump curl:curl faketime:faketime \
	python3:python3
# What the build itself needs beside Rust.
BUILD_TOOLS := cc:gcc cmake:cmake

.PHONY: help run test interop bench fuzz lint build fmt tools-build tools-run tools-test

help: ## This text
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: tools-run build ## Build and show a whole station at work (KEEP=1 stays up, ONLY=decoy,min for one cell)
	@target/release/station demo $(if $(KEEP),--keep) $(if $(ONLY),--only $(ONLY))

test: tools-test ## Run every test
	@$(CARGO) test $(PROFILE) --workspace --no-fail-fast -- --show-output 2>&1 | scripts/test-summary

interop: tools-test build ## Run the peers that nobody here wrote
	@interop/run

bench: build ## Print the ratios of the hot paths (ONLY=name,… for some)
	@target/release/bench $(if $(ONLY),--only $(ONLY))

fuzz: tools-build ## Fuzz each target for a while (SECONDS=n each)
	@fuzz/run $(SECONDS_PER_TARGET)

lint: tools-build ## Formatting, clippy with warnings denied, licences and bans
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings
	scripts/deny

build: tools-build
	@$(CARGO) build $(PROFILE) --workspace --bins

fmt: ## Format everything
	$(CARGO) fmt --all

tools-build:
	@scripts/need $(BUILD_TOOLS)

tools-run:
	@scripts/need $(BUILD_TOOLS) $(RUN_TOOLS)

tools-test:
	@scripts/need $(BUILD_TOOLS) $(TEST_TOOLS)
