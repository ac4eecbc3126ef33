.DEFAULT_GOAL := help
.PHONY: help build run test lint docs check audit-packet bench

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT  := $(shell git describe --always --abbrev=40 --exclude "*" --dirty 2>/dev/null)
LDFLAGS := -X main.version=$(VERSION) -X main.commit=$(COMMIT)

# Without a C compiler the race detector cannot be built.
RACE := $(shell command -v "$$(go env CC)" >/dev/null 2>&1 && echo -race)

# CI has it say which tests it ran.
GOTEST := go test

# What to render into; audit-packet/ is the one that is committed.
PACKET := audit-packet

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "%-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build every command into bin/
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

run: build ## run the server on a database of its own, and print the first call
	bin/certctl-server serve --embedded

test: ## run every test on a real PostgreSQL, with the race detector where there is a C compiler
	@test -n '$(RACE)' || echo 'no C compiler: running without -race; install one (gcc) to look for races'
	$(GOTEST) $(RACE) -shuffle=on ./...

lint: ## staticcheck with all checks, gofumpt and the linters of .ci/golangci.yaml
	go build -C .ci/tools -o "$(CURDIR)/bin/golangci-lint" github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	bin/golangci-lint run --config .ci/golangci.yaml ./...

docs: build ## render docs/ from the declared tables; DISCARD=1 drops edits made inside generated blocks
	bin/audit-packet docs $(if $(DISCARD),--discard-edits)

check: build ## everything CI runs: whether the pages are what this build says, linters, tests
	bin/audit-packet check
	$(MAKE) lint
	$(MAKE) test

audit-packet: build ## look at running servers and render the packet; QUICK=1 SEED=7 PACKET=dir
	go build -tags defects -ldflags '$(LDFLAGS)' -o bin/certctl-server-defects ./cmd/certctl-server
	bin/audit-packet build $(if $(QUICK),--quick) $(if $(SEED),--seed $(SEED)) $(PACKET)

bench: ## run the benchmarks
	go test -run '^$$' -bench . -benchmem ./...
