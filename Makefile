# make run    start the server on the built-in default
# make build  build ./isthmus
# make test   install what the tests need, then vet, test and fuzz: what CI runs
# make sim    homeservers and devices in SEEDS simulated storms
# make fuzz   every fuzz target for FUZZTIME
# make bench  the table of docs/BENCHMARKS.md
SHELL    := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
FUZZTIME ?= 3s
SEEDS    ?= 300

# Packages that start servers and real peers run one at a time. The race detector looks at all
# but the command, whose tests run the real binary and kill it hundreds of times, and ORDERED,
# where one thing happens after the other: TestArchOrdered sees to it that neither they nor
# their tests start a goroutine. It is too slow for STATES of core/client, which start none.
SERVERS := ./bridges/irc ./bridges/matrix ./store
COMMAND := ./cmd/isthmus
STORMS  := ./core/sim
ORDERED := ./core ./core/epoch ./core/identity ./core/policy ./core/wire ./converter
STATES  := TestCrashes

# The databases of tests, and what is compiled, are in memory where there is room: a process
# that is killed loses nothing there, and nobody waits for a disk. Benchmarks do: they count it.
ifneq ($(shell grep -q ' /dev/shm .*noexec' /proc/mounts || df --output=avail -k /dev/shm 2>/dev/null | awk '$$1+0 > 8000000'),)
unit vectors sim peers interop fuzz: export TMPDIR := /dev/shm
endif

# Runs by name and count: a line for each official vector file, and for each
# pair of MLS implementations.
NAMED := grep -E '^(ok|FAIL|panic|mls )|^ +--- |_test.go:'

.PHONY: run build test install vet unit vectors sim peers interop fuzz bench

run:
	go run ./cmd/isthmus serve

build:
	CGO_ENABLED=0 go build -trimpath -ldflags "-X main.revision=$$(git describe --tags --always --dirty 2>/dev/null)" -o isthmus ./cmd/isthmus

test: vet unit vectors sim peers interop fuzz

install:
	.ci/install

vet: install
	go vet ./...
	go vet -tags bench ./cmd/isthmus

# The official vectors come after, by name and without the race detector, which has nothing to see in them.
unit: vet
	go test -timeout 15m $(ORDERED)
	go test -timeout 15m -run '$(STATES)' ./core/client
	go test -race -timeout 15m -skip 'Vector|$(STATES)' $$(go list ./... | grep -v -x -F -f <(go list $(SERVERS) $(COMMAND) $(STORMS) $(ORDERED)))

vectors: unit
	go test -v -run Vector ./mls/... | $(NAMED) | grep -v '^        '

# Those seeds that ever found something run as well (core/sim/testdata/seeds.txt). A seed that
# finds something prints the end of its trace; go test ./core/sim -seed N replays it with all.
sim: vectors
	go test -v -timeout 15m $(STORMS) -seeds $(SEEDS)

peers: sim
	go test -race -p 1 -timeout 20m $(SERVERS)
	go test -timeout 30m -skip TestMLSInterop $(COMMAND)

interop: peers
	go test -v -timeout 30m -run TestMLSInterop $(COMMAND) | $(NAMED)

fuzz: interop
	.ci/fuzz $(FUZZTIME)

bench:
	.ci/install bench
	go test -tags bench -run '^TestBench' -timeout 60m -v ./cmd/isthmus
