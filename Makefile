# make run    start the server on the built-in default
# make build  build ./isthmus
# make test   install what the tests need, then vet, test and fuzz: what CI runs
# make fuzz   every fuzz target for FUZZTIME
# make bench  the table of docs/BENCHMARKS.md
SHELL    := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
FUZZTIME ?= 5s

# Packages that start servers and real peers run one at a time. The race detector looks at all
# but the command, whose tests run the real binary and kill it hundreds of times.
SERVERS := ./bridges/irc ./bridges/matrix ./store
COMMAND := ./cmd/isthmus

# Runs by name and count: a line for each official vector file, and for each
# pair of MLS implementations.
NAMED := grep -E '^(ok|FAIL|panic|mls )|^ +--- |_test.go:'

.PHONY: run build test install vet unit vectors peers interop fuzz bench

run:
	go run ./cmd/isthmus serve

build:
	CGO_ENABLED=0 go build -trimpath -o isthmus ./cmd/isthmus

test: vet unit vectors peers interop fuzz

install:
	.ci/install

vet: install
	go vet ./...
	go vet -tags bench ./cmd/isthmus

# The official vectors come after, by name and without the race detector, which has nothing to see in them.
unit: vet
	go test -race -timeout 15m -skip Vector $$(go list ./... | grep -v -x -F -f <(go list $(SERVERS) $(COMMAND)))

vectors: unit
	go test -v -run Vector ./mls/... | $(NAMED) | grep -v '^        '

peers: vectors
	go test -race -p 1 -timeout 20m $(SERVERS)
	go test -timeout 30m -skip TestMLSInterop $(COMMAND)

interop: peers
	go test -v -timeout 30m -run TestMLSInterop $(COMMAND) | $(NAMED)

# The targets are found, so that a new one cannot be forgotten.
fuzz: interop
	for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "fuzz $$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg; \
		done; \
	done

bench: install
	go test -tags bench -run '^TestBench' -timeout 60m -v ./cmd/isthmus
