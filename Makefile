# `make` builds, tests and lints; `make help` lists the rest. `make test` and
# `make run` need nothing but Go; other targets build their pinned tools into
# .bin on first use.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DEFAULT_GOAL := all

# Override on the command line: make fuzz FUZZTIME=5m, make bench BENCH=Index.
PACKAGES  ?= ./libs/... ./proto/... ./services/...
GOTEST    ?= go test
TESTFLAGS ?=
BENCH     ?= .
BENCHTIME ?= 1s
COUNT     ?= 1
FUZZTIME  ?= 10s
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

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZTIME (10s)
	scripts/fuzz $(FUZZTIME) $(PACKAGES)

# Figures of the whole are printed once each: their benchmarks loop by themselves.
.PHONY: bench
bench: ## Run the micro benchmarks that match BENCH, then the figures of the whole on embedded servers
	@mkdir -p $(BIN)
	go test -run '^$$' -bench '$(BENCH)' -benchtime $(BENCHTIME) -count $(COUNT) -benchmem $$(go list $(PACKAGES) | grep -v internal/e2e) | tee $(BIN)/bench.txt
	go test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 30m ./services/internal/e2e | tee -a $(BIN)/bench.txt

.PHONY: bench-real
bench-real: ## The figures of the whole, on an Apache Kafka and a Redis of their own, too
	@mkdir -p $(BIN)
	KAFKA_JVM='-Xmx512m -XX:+UseG1GC' SILLAGE_TEST_KAFKA=own SILLAGE_TEST_REDIS=own \
		go test -run '^$$' -bench '$(BENCH)' -benchtime 1x -timeout 30m -v ./services/internal/e2e | tee $(BIN)/bench-real.txt

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
	$(BIN)/golangci-lint run $(PACKAGES)
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
