# Front door of the station. `make help` lists what there is.

SHELL := /bin/bash
CARGO ?= cargo
SECONDS_PER_TARGET = $(or $(SECONDS),20)
PROFILE := --release

# Tools of Debian that a target needs, as tool:package.
RUN_TOOLS := ip:iproute2 tc:iproute2 nft:nftables ethtool:ethtool nsenter:util-linux unshare:util-linux
TEST_TOOLS := $(RUN_TOOLS) redis-server:redis-server ping:iputils-ping tcpdump:tcpdump curl:curl faketime:faketime \
	iptables:iptables setpriv:util-linux sysctl:procps as:binutils nats-server:nats-server \
	python3:python3 chromium:chromium promtool:prometheus tmux:tmux tshark:tshark capinfos:wireshark-common
# What the build itself needs beside Rust.
BUILD_TOOLS := cc:gcc cmake:cmake

COUNT_TOOLS := valgrind:valgrind
DEPLOYMENT_TOOLS := dockerd:docker.io docker-compose:docker-compose debootstrap:debootstrap \
	systemd-nspawn:systemd-container strip:binutils

# Containers. `make target=det container` builds one image; without a target, everything in one.
# pfring_ver is PF_RING's version in the image: the argument, else PFRING_VER, else none. binaries=bin
# takes the programs of ./bin instead of compiling in the image; base and builder replace the images
# that docker/Dockerfile starts from.
DOCKER ?= $(shell scripts/docker)
TARGETS := det app reg zbalance sim
target ?=
pfring_ver ?= $(or $(PFRING_VER),none)
binaries ?=
base ?=
builder ?=
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
REVISION = $(shell git rev-parse --short HEAD 2> /dev/null || echo unknown)
# A tag allows no slash, and a version may be a git ref.
PFRING_TAG = $(subst /,-,$(pfring_ver))

DESTDIR ?=

# Each of these runs leaves what its daemons wrote in a folder of its own, for `make leaks`; a run within a run
# adds to it.
RECORDS := $(CURDIR)/target/records
recorded = $(if $(CONJURE_RECORDS),,rm -rf $(RECORDS)/$(1) && export CONJURE_RECORDS=$(RECORDS)/$(1) &&)

comma := ,

.PHONY: help run test interop leaks bench counts fuzz lint build bindings fmt all bin container deployment install packages reproduce \
	book doctor backup-config restore-config clean tools-build tools-run tools-test tools-counts tools-deployment \
	zbalance detector application registrar registration-server genkey conjure conjure-sim app app-dbg \
	sim rust libtd

help: ## This text
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: tools-run build ## Build and show a whole station at work (KEEP=1 stays up, ONLY=decoy,min for one cell)
	@$(call recorded,run) target/release/station demo $(if $(KEEP),--keep) $(if $(ONLY),--only $(ONLY))

test: tools-test ## Run every test
	@$(call recorded,test) $(CARGO) test $(PROFILE) --workspace --no-fail-fast -- --show-output 2>&1 | scripts/test-summary

interop: tools-test build ## Run the peers that nobody here wrote
	@$(call recorded,interop) interop/run

deployment: tools-deployment bin ## Try containers, packages and units: a client connects through each
	@$(call recorded,deployment) deployment/run

leaks: build ## Search all that daemons wrote in these runs for clients and secrets (PARTS=run,test: in each of these)
	@scripts/leaks $(RECORDS) $(subst $(comma), ,$(PARTS))

bench: build ## Print the ratios of the hot paths (ONLY=name,… for some, BASE=DIR beside another build, or the reference)
	@target/release/bench $(if $(ONLY),--only $(ONLY)) $(if $(BASE),--base $(BASE))

counts: tools-counts build ## Count the instructions of the pure kernels against committed figures (RENEW=1 writes them)
	@target/release/bench-counts $(if $(RENEW),--renew) $(if $(ONLY),--only $(ONLY))

fuzz: tools-build ## Fuzz each target for a while (SECONDS=n each)
	@fuzz/run $(SECONDS_PER_TARGET)

lint: tools-build ## Formatting, clippy with warnings denied, licences and bans
	$(CARGO) fmt --all --check
	$(CARGO) clippy $(PROFILE) --workspace --all-targets -- -D warnings
	scripts/deny

build: tools-build
	@$(CARGO) build $(PROFILE) --workspace --bins

all: bin ## Build every program into ./bin

bin: build
	@scripts/bin target/release bin

# Names that operators of the reference know, and one for each of our programs; outputs in ./bin.
zbalance zcount zdump detector application registrar genkey conjure app registration-server libtd rust sim conjure-sim: bin

app-dbg: tools-build ## The application with debug assertions, in ./bin
	@$(CARGO) build -p application && install -D target/debug/application bin/application-dbg

container: ## Build an image (target=det, app, reg, zbalance or sim; none: all in one)
ifneq ($(filter-out $(TARGETS),$(target)),)
	@echo 'unrecognized container target $(target) - please use one of [ $(TARGETS) ]' >&2; exit 2
else
	DOCKER_BUILDKIT=1 $(DOCKER) build --network=host \
		$(if $(target),--target conjure_$(target) -t conjure_$(target),-t conjure -t conjure:pf-$(PFRING_TAG)) \
		-f docker/Dockerfile --build-arg pfring_ver=$(pfring_ver) --build-arg version=$(VERSION) \
		--build-arg revision=$(REVISION) $(if $(binaries),--build-arg BINARIES=host) \
		$(if $(base),--build-arg BASE=$(base)) $(if $(builder),--build-arg BUILDER=$(builder)) .
	@$(DOCKER) image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' $(if $(target),conjure_$(target),conjure)
endif

install: bin ## Install into DESTDIR: /opt/conjure, units, man pages
	@packaging/stage all bin $(or $(DESTDIR),/)

packages: bin ## Debian packages, tarball, SBOM and checksums in target/packages
	@packaging/deb bin target/packages

reproduce: tools-build ## Build the packages twice in two folders and compare every byte
	@packaging/reproduce

book: ## The operator's book, in target/book
	@docs/build target/book

doctor: build ## Look for what is wrong with this host
	@target/release/station doctor

backup-config: ## Copy the local configuration to ~/conjure-config (no keys)
	@mkdir -p ~/conjure-config && cp -v $$(ls -d /var/lib/conjure/*.conf /var/lib/conjure/*.toml /var/lib/conjure/ClientConf 2> /dev/null) ~/conjure-config

restore-config: ## Copy ~/conjure-config back
	@cp -v ~/conjure-config/* /var/lib/conjure

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf bin

bindings: ## Make the bindings of PF_RING's library again
	@scripts/bindings

fmt: ## Format everything
	$(CARGO) fmt --all

tools-build:
	@scripts/need $(BUILD_TOOLS)
	@scripts/need-rust

tools-run:
	@scripts/need $(BUILD_TOOLS) $(RUN_TOOLS)

tools-test:
	@scripts/need $(BUILD_TOOLS) $(TEST_TOOLS)

tools-deployment:
	@scripts/need $(BUILD_TOOLS) $(RUN_TOOLS) $(DEPLOYMENT_TOOLS)

tools-counts:
	@scripts/need $(BUILD_TOOLS) $(COUNT_TOOLS)
