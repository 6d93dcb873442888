# make run    start the server on the built-in default
# make build  build ./isthmus
# make test   install what the tests need, then vet, test and fuzz: what CI runs
# make fuzz   every fuzz target for FUZZTIME
# make bench  the table of docs/BENCHMARKS.md
SHELL    := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
FUZZTIME ?= 10s

# Packages that start servers and real peers, or measure time. They run one at a time and
# without the race detector; all others run with it.
SERVERS := ./bridges/irc ./bridges/matrix ./cmd/isthmus ./store

.PHONY: run build test install vet unit peers fuzz bench

run:
	go run ./cmd/isthmus serve

build:
	CGO_ENABLED=0 go build -trimpath -o isthmus ./cmd/isthmus

test: vet unit peers fuzz

install:
	.ci/install

vet: install
	go vet ./...
	go vet -tags bench ./cmd/isthmus

unit: vet
	go test -race -timeout 10m $$(go list ./... | grep -v -x -F -f <(go list $(SERVERS)))

peers: unit
	go test -p 1 -timeout 30m $(SERVERS)

# The targets are found, so that a new one cannot be forgotten.
fuzz: peers
	for pkg in $$(go list ./...); do \
		for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "fuzz $$pkg $$target"; \
			go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

bench: install
	go test -tags bench -run '^TestBench' -timeout 60m -v ./cmd/isthmus
