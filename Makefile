# SPDX-License-Identifier: Apache-2.0
# Every target installs what it needs first (Debian/Ubuntu); `make help` lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Release binaries carry the Swift runtime, so that one file can be copied to another machine.
# Nobody looks up their functions by name: without that table they are nearly four megabytes smaller.
RELEASE := -c release --static-swift-stdlib -Xlinker --no-export-dynamic
JOBS ?= 2

.PHONY: help deps deps-test build build-debug test unit interop vectors demo bench crash-proof lane-figures simulate chaos fuzz sanitize generate format lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

deps: ## install the system libraries that building needs
	@dev/install-deps build

deps-test: deps ## install the foreign clients and servers that the tests talk to
	@dev/install-deps test

build: deps ## release binaries mdc-broker and mdc in .build/release/
	swift build $(RELEASE) -j $(JOBS) --product mdc-broker
	swift build $(RELEASE) -j $(JOBS) --product mdc

# The tests have all options in one build; dev/run-tests then builds `mdc` without them.
TRAITS := MDC_TRAITS=PostgreSQL,Redis

build-debug: deps
	MDC_STRICT=1 $(TRAITS) swift build -j $(JOBS) --build-tests

test: deps-test build-debug ## the whole suite: unit, integration, interop, golden vectors, lint
	$(TRAITS) dev/run-tests

unit: deps-test build-debug ## the Swift test targets alone
	MDC_STRICT=1 $(TRAITS) swift test -j $(JOBS) --skip-build

interop: deps-test ## foreign Kafka clients against a fresh broker
	@test -x .build/debug/mdc-broker || MDC_STRICT=1 swift build -j $(JOBS) --product mdc-broker
	@test -x .build/debug/mdc || MDC_STRICT=1 swift build -j $(JOBS) --product mdc
	dev/interop

vectors: deps ## golden vectors of another folder: make vectors DIR=…
	@test -n "$(DIR)" || { echo "say which folder: make vectors DIR=path/to/vectors" >&2; exit 2; }
	@swift build -j $(JOBS) --product mdc-vectors >&2
	@.build/debug/mdc-vectors "$(DIR)"

demo: build ## the main job, start to end: CSV of messages -> final statuses, everything in one process
	.build/release/mdc up --demo Examples/messages.csv --data demo-data

bench: build ## benchmarks, one line a figure: name value unit, compared with Benchmarks/thresholds
	@dev/install-deps bench
	@swift build $(RELEASE) -j $(JOBS) --product mdc-log-bench >&2
	@swift build $(RELEASE) -j $(JOBS) --product mdc-pipeline-bench >&2
	@Benchmarks/run

fuzz: deps ## libFuzzer over every entrance for foreign bytes: make fuzz SECONDS=60 [TARGETS="batch request"]
	dev/fuzz $(or $(SECONDS),60) $(TARGETS)

sanitize: deps ## test suites of model, protocol, log and broker under the thread and the address sanitizer
	dev/sanitize

crash-proof: deps ## kill workers, listener and broker at random while messages flow: make crash-proof MESSAGES=50000 SEED=1
	MDC_CRASH_MESSAGES=$(or $(MESSAGES),50000) MDC_CRASH_SEED=$(or $(SEED),1) MDC_ONLY=MDCPipelineTests \
	    swift test -j $(JOBS) --filter CrashProofTests

lane-figures: deps ## a critical message's wait, idle and behind bulk, and the lanes' shares: make lane-figures MESSAGES=20000 RATE=500
	MDC_LANE_MESSAGES=$(or $(MESSAGES),20000) MDC_LANE_RATE=$(or $(RATE),500) MDC_ONLY=MDCPipelineTests \
	    swift test -j $(JOBS) --filter LaneFigures

simulate: deps ## the storage engine, then a cluster, on simulated disks, by seed: make simulate SEEDS=1000 (or A..B) OPERATIONS=120
	swift build -c release -j $(JOBS) --product mdc-simulate
	.build/release/mdc-simulate log --operations $(or $(OPERATIONS),120) \
	    --seeds $(if $(findstring ..,$(SEEDS)),$(SEEDS),1..$(or $(SEEDS),20000))
	swift build -j $(JOBS) --product mdc-simulate
	.build/debug/mdc-simulate cluster --seeds $(if $(findstring ..,$(SEEDS)),$(SEEDS),1..$(or $(SEEDS),1000))

chaos: deps-test ## three nodes under faults by seed: make chaos MINUTES=30 [SEED=1] [FAULTS=isolate,kill_all]
	@test -x .build/debug/mdc-broker || MDC_STRICT=1 swift build -j $(JOBS) --product mdc-broker
	dev/chaos --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED)) $(if $(FAULTS),--faults $(FAULTS))

generate: ## write the protocol's Swift anew from its schemas
	dev/generate-messages

format: ## format the sources in place
	swift format -i -p -r $$(dev/sources)

lint: ## formatting, licence headers, generated code
	dev/lint

clean: ## remove build products
	rm -rf .build
