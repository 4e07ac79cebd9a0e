# `make` builds, tests and lints; `make help` lists the rest. `make test` and
# `make run` need nothing but Go; other targets build their pinned tools into
# .bin on first use.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DEFAULT_GOAL := all

# Override on the command line: make fuzz FUZZTIME=5m, make bench BENCH=Index,
# make sim SEEDS=100000, make model STATES=5000000.
PACKAGES  ?= ./libs/... ./proto/... ./services/...
GOTEST    ?= go test
TESTFLAGS ?=
BENCH     ?= .
BENCHTIME ?= 1s
COUNT     ?= 1
FUZZTIME  ?= 10s
STATES    ?= 100000
SEEDS     ?= 3000
PLATFORMS ?= linux/arm64 darwin/arm64 windows/amd64

BIN       := $(CURDIR)/.bin
MODULES   := proto libs services

# A tool is rebuilt when its module's pins or the Go version change, not when a
# fresh checkout gives the files a new date.
stamp = $(BIN)/stamp/$(1)-$(shell { cat scripts/tools/$(1)/go.mod scripts/tools/$(1)/go.sum; go env GOVERSION; } | cksum | cut -d' ' -f1)
DEV   := $(call stamp,dev)
PROTO := $(call stamp,proto)
LINT  := $(call stamp,lint)

.PHONY: all
all: build test lint ## Build, test and lint (the default)

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## Compile everything; the commands land in .bin
	go build $(PACKAGES)
	go build -trimpath -o $(BIN)/ ./services/cmd/...

.PHONY: run
run: ## Start a whole shop in one process, with demo traffic
	go run ./services/cmd/sillage up --demo

# The race detector needs cgo and so a C compiler; where there is none the tests
# still run, and the first line says which it was.
.PHONY: test
test: ## Run all tests, with the race detector where a C compiler is present
	@cc=$$(go env CC); \
	if [ "$$(go env CGO_ENABLED)" = 1 ] && command -v "$${cc%% *}" >/dev/null; then \
		echo "test: with the race detector"; race=-race; \
	else \
		echo "test: without the race detector (no C compiler)"; race=; \
	fi; \
	set -x; $(GOTEST) $$race $(TESTFLAGS) $(PACKAGES)

.PHONY: test-race
test-race: ## Run all tests with the race detector, or fail
	$(GOTEST) -race $(TESTFLAGS) $(PACKAGES)

.PHONY: test-real
test-real: ## Run the shared suites on a real Apache Kafka and Redis, which it starts and stops
	scripts/test-real

.PHONY: model
model: ## Search all orders of events in small models of the protocol, up to STATES states each
	GOGC=400 go test -run 'TestModel$$' -count=1 -timeout 60m -v ./libs/stream/step -model.states=$(STATES)

.PHONY: sim
sim: ## Live through SEEDS random worlds with failures; one that goes wrong is shrunk and told
	go test -run 'TestSimulation' -count=1 -timeout 0 -v ./libs/stream/step -sim.seeds=$(SEEDS)

.PHONY: mutants
mutants: ## Take every guard of the protocol away once: model, simulation or a rule's test has to notice
	go test -run 'TestMutants$$' -count=1 -timeout 12h -v ./libs/stream/step -mutants

.PHONY: mutants-chaos
mutants-chaos: ## Build the services without one guard after the other, and break them: the judge of the chaos run has to notice
	@mkdir -p $(BIN)/mutants
	go test -run 'TestMutants$$' -count=1 ./libs/stream/step -mutants.write $(abspath $(BIN))/mutants
	go test -run 'TestChaosNoticesMutants$$' -count=1 -timeout 3h -v ./services/internal/chaos -chaos.mutants $(abspath $(BIN))/mutants

# Kinds of faults come in turns that hang on the seed, which is another one with
# every commit. More flags in CHAOS: docs/CHAOS.md.
SEED     ?= $(shell git rev-list --count HEAD 2>/dev/null || echo 1)
SYSTEMS  ?= embedded real
FAULTS   ?= 60
EVENTS   ?= 0
DURATION ?= 0s
CHAOS    ?=
chaos = go test -count=1 -timeout 24h -v -run '$(1)' ./services/internal/chaos -chaos.seed $(SEED) -chaos.out $(BIN)/chaos $(CHAOS)
break = @mkdir -p $(BIN)/chaos; for system in $(SYSTEMS); do ( set -x; \
	$(call chaos,^TestChaos$$) -chaos.system $$system -chaos.faults $(FAULTS) -chaos.events $(EVENTS) -chaos.duration $(DURATION) ); done

.PHONY: chaos
chaos: ## Break processes, broker and store 60 times, embedded and real, and count what was lost
	$(break)

.PHONY: chaos-full
chaos-full: FAULTS = 300
chaos-full: EVENTS = 5000000
chaos-full: CHAOS += -chaos.rate 6000 -chaos.batch 500
chaos-full: chaos-scenarios ## The same with 300 faults and 5 million events on each system, and the scenarios
	$(break)

.PHONY: chaos-soak
chaos-soak: DURATION = 1h
chaos-soak: ## The same for DURATION (1h) on each system
	$(break)

.PHONY: chaos-scenarios
chaos-scenarios: ## What has to end in a halt or a gap, and says so: each alone, on real servers
	@mkdir -p $(BIN)/chaos
	$(call chaos,Test[^C]) -chaos.system real

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (10s)
	scripts/fuzz $(FUZZTIME) $(PACKAGES)

# Figures of the whole are printed once each: their benchmarks loop by themselves.
.PHONY: bench
bench: ## Run the micro benchmarks that match BENCH, then the figures of the whole on embedded servers
	@mkdir -p $(BIN)
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(COUNT) -benchmem $$(go list $(PACKAGES) | grep -v internal/e2e) | tee $(BIN)/bench.txt
	go test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 30m ./services/internal/e2e | tee -a $(BIN)/bench.txt

.PHONY: bench-domain
bench-domain: ## Time, memory and speed of the three predictors, with tables from 10^4 to 10^6; on SILLAGE_DATA where it is set
	@mkdir -p $(BIN)
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -benchmem -timeout 60m ./libs/domain/... | tee $(BIN)/bench-domain.txt

.PHONY: bench-real
bench-real: ## The figures of the whole, on an Apache Kafka and a Redis of their own, too
	@mkdir -p $(BIN)
	KAFKA_JVM='-Xmx512m -XX:+UseG1GC' SILLAGE_TEST_KAFKA=own SILLAGE_TEST_REDIS=own \
		go test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 30m -v ./services/internal/e2e | tee $(BIN)/bench-real.txt

.PHONY: bench-stream
bench-stream: ## The figures of the processor step on a real Kafka and a real Redis, one JSON line each
	@mkdir -p $(BIN)
	scripts/bench-stream | tee $(BIN)/bench-stream.txt

.PHONY: bench-membership
bench-membership: ## How long partitions stand still when members come, go and die, beside kafka-go's groups
	SILLAGE_TEST_KAFKA=own go test -run '^$$' -bench Rebalance -benchtime 1x -timeout 15m -v ./libs/stream/broker
	dir=$$(mktemp -d); trap 'scripts/kafka stop "$$dir/kafka"; scripts/redis stop "$$dir/redis"; rm -rf "$$dir"' EXIT; \
		SILLAGE_TEST_REDIS=$$(scripts/redis start "$$dir/redis" "$${SILLAGE_REDIS_PORT:-26379}"); \
		SILLAGE_TEST_KAFKA=$$(scripts/kafka start "$$dir/kafka" "$${SILLAGE_KAFKA_PORT:-19192}"); \
		export SILLAGE_TEST_REDIS SILLAGE_TEST_KAFKA; \
		go test -run '^$$' -bench HandOver -benchtime 1x -timeout 15m -v ./libs/stream

.PHONY: lint
lint: $(LINT) $(PROTO) ## Lint Go and protobuf
	$(BIN)/golangci-lint run --allow-parallel-runners $(PACKAGES)
	cd proto && $(BIN)/buf lint

.PHONY: fmt
fmt: $(DEV) $(PROTO) ## Format Go and protobuf
	find $(MODULES) -name '*.go' -not -path 'proto/gen/*' -exec $(BIN)/gofumpt -w {} +
	cd proto && $(BIN)/buf format -w

.PHONY: gen
gen: $(PROTO) ## Generate Go from the protobuf files
	cd proto && $(BIN)/buf generate

.PHONY: docs
docs: ## Generate docs/asyncapi.yaml from the catalogue of topics and the messages
	go run ./services/cmd/sillage topics asyncapi >docs/asyncapi.yaml

.PHONY: gen-check
gen-check: $(PROTO) ## Fail when a generated file is not what its source gives
	@tmp=$$(mktemp -d); trap 'rm -rf "$$tmp"' EXIT; stale=; \
	( set -x; cd proto; $(BIN)/buf generate -o "$$tmp" ); \
	diff -r "$$tmp/gen" proto/gen || stale="proto/gen (make gen)"; \
	go run ./services/cmd/sillage topics asyncapi >"$$tmp/asyncapi.yaml"; \
	diff "$$tmp/asyncapi.yaml" docs/asyncapi.yaml || stale="$$stale docs/asyncapi.yaml (make docs)"; \
	if [ -n "$$stale" ]; then echo "gen-check: stale: $$stale" >&2; exit 1; fi

.PHONY: proto-breaking
proto-breaking: $(PROTO) ## Compare the protobuf files with the last release tag
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null || true); \
	if [ -z "$$tag" ]; then echo "proto-breaking: no release tag yet, nothing to compare with"; exit 0; fi; \
	set -x; cd proto; $(BIN)/buf breaking --against "../.git#tag=$$tag,subdir=proto"

.PHONY: tidy
tidy: ## Tidy the go.mod files and sync the workspace
	for m in $(MODULES) scripts/tools/dev scripts/tools/proto scripts/tools/lint; do (cd $$m && GOWORK=off go mod tidy); done
	go work sync

.PHONY: tools
tools: $(DEV) $(PROTO) $(LINT) ## Build the pinned tools into .bin

.PHONY: tools-dev tools-proto tools-lint
tools-dev: $(DEV)
tools-proto: $(PROTO)
tools-lint: $(LINT)

$(BIN)/stamp/%:
	@mkdir -p $(BIN)/stamp
	@name='$*'; name=$${name%-*}; set -x; \
	cd scripts/tools/$$name; GOWORK=off GOBIN=$(BIN) go install tool
	@name='$*'; name=$${name%-*}; rm -f $(BIN)/stamp/$$name-*; touch $@

.PHONY: cross
cross: ## Build every command for PLATFORMS into .bin/cross
	@for p in $(PLATFORMS); do ( set -x; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go build -trimpath -o $(BIN)/cross/$${p%/*}-$${p#*/}/ ./services/cmd/... ); done

.PHONY: clean
clean: ## Remove what was built and run here; the tools stay
	rm -rf $(BIN)/cross $(BIN)/bench.txt $(BIN)/test .run
	for d in services/cmd/*/; do rm -f "$(BIN)/$$(basename "$$d")"; done
