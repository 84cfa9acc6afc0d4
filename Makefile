# make help lists the targets. Building and running need Go and make alone.

SHELL     := /bin/sh
GO        ?= go
BIN       := bin
OUT       := build
# Fuzzing time a target, rounds of a long crash run, seed of a crash run (0: by the clock).
FUZZTIME  ?= 10s
ROUNDS    ?= 60
SHORT     ?= 7
SEED      ?= 0
# Histories and commits of make soak, files of make scale.
SEEDS     ?= 1000
COMMITS   ?= 10000
FILES     ?= 1000000
# Tests that do the same thing again and again, mostly in one goroutine, and take minutes under the race
# detector; they run without it.
RACESKIP  := ^(TestPowerLoss(NoticesMissingSync|InCommitOfMany)?|TestManyCommits|TestCommitManyEntries|TestErrorsWithoutEnd|TestCommitOnFaultyStore|TestCopyResumes|TestCopyCostsTheDifference|TestLostPackfiles|TestIndexEqualsKloset|TestKlosetReadsOurs|TestSearchAndDiffRandom|TestOrdinary|TestFar(LargeFile|(FTP)?SmallFiles)|TestScrubFinds(FlippedBits|Files)|TestRepairFrom(FileCopy|LocalCopies|Copies)|TestArchiveOfGone|TestReplace(Again|CutOff)?|TestCodecAgainstKloset|TestEncodeInto|TestCutter|TestRepairStates|TestChangeReadsTheEdges|TestCopy|TestCopyReadsWhatChanged|TestIngestMakesTheSameSnapshot|TestIngestLost|TestRemadeStates|TestRemadeAnswer|TestComesAndGoes|TestAnswersCutOff|TestAnswersLate|TestRemovalInAnyOrder|TestMaintainLooksOnce|TestManyEditsMakeLeavesOfUsualSize|TestRepairMissingContents|TestCommitOfMany|TestErrorsOfHostileServers|TestSFTPOpenSSH|TestCopyLosesContents|TestCheckGivesUp|TestCheckFiles(Keeps|WrongWhole)|TestCopyForeign|TestGrowth|TestIncrementalEqualsBuilder|TestCutAtEveryStep|TestGiveUpWithoutPackfiles|TestRepairMissingUnread|TestCopyOfDamaged|TestStoreFromCopy|TestManyDamaged|TestDamagedIsStoredAgain|TestRepairWhileCopyIsAway|TestPatchOfLostChunks|TestRepairMissingInPart|TestRepairUnreadHeader|TestRepairShowsSnapshot|TestGiveUpRepairs|TestMaintainBuriesMissing|TestCommitNoticesLostEntries|TestCheckReadsIndexes|TestMaintain((Spares|Rescues)LostSnapshots|SparesToldContents|LostStateComesBack)|TestSampleReadsLaterIndexes|TestGiveUp|TestScrub(Forgotten|MuchDamage)|TestLostDirectories|TestPowerLossFindsMissingSyncs|TestEveryTornLength|TestEveryByteOfACleanJournal)$$
# So do scripts of commands that do one thing after another.
RACESKIP_SCRIPTS := ^TestScripts$$/^(check|find|get|help|import|ls|prune|prune_two)$$
# Packages whose tests take longest begin first; all others follow.
PACKAGES  := ./snapshotter ./cmd/gateway ./vfs/vfstest ./ftpsrv ./...
PLATFORMS := linux/amd64 linux/arm64 darwin/arm64 freebsd/amd64
REPORT    := $(BIN)/testreport
AXE       := internal/browser/node_modules/axe-core/axe.min.js

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: build ## build, make ./data and config.yaml when missing, and serve SFTP
	$(BIN)/gateway quickstart

.PHONY: build
build: $(BIN)/gateway ## build bin/gateway

# go build knows best what is out of date.
.PHONY: FORCE
FORCE:

$(BIN)/gateway: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -o $@ ./cmd/gateway

# The gateway that can kill itself at named moments, for crash tests.
$(BIN)/gateway-failpoint: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -tags failpoint -o $@ ./cmd/gateway

$(BIN)/crashclient: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -o $@ ./internal/crash/crashclient

$(BIN)/testreport: FORCE
	$(GO) build -o $@ ./internal/testreport

# Nested modules: they are no dependencies of the gateway.
$(BIN)/plakar: internal/plakar/go.mod internal/plakar/go.sum $(wildcard internal/plakar/ttlmap/*.go)
	cd internal/plakar && CGO_ENABLED=0 $(GO) build -o ../../$@ github.com/PlakarKorp/plakar

$(BIN)/versitygw: internal/s3server/go.mod internal/s3server/go.sum
	cd internal/s3server && CGO_ENABLED=0 $(GO) build -o ../../$@ github.com/versity/versitygw/cmd/versitygw

$(AXE): internal/browser/package-lock.json
	cd internal/browser && npm ci --ignore-scripts --no-audit --no-fund
	@touch $@

$(BIN)/golangci-lint: internal/tools/go.mod internal/tools/go.sum
	cd internal/tools && CGO_ENABLED=0 $(GO) build -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# Everything: each part leaves its counts, and the last line printed is "N passed, N failed".
.PHONY: test
test: $(REPORT) ## run everything: unit tests, a short crash run, real clients, failing disks, remote stores
	@rm -rf $(OUT)/counts
	@$(MAKE) --no-print-directory unit || true
	@$(MAKE) --no-print-directory crash-short || true
	@$(MAKE) --no-print-directory peers || true
	@$(MAKE) --no-print-directory faults || true
	@$(MAKE) --no-print-directory stores || true
	@$(REPORT) -total $(foreach part,unit crash peers browser faults stores,$(OUT)/counts/$(part).json)

.PHONY: unit
unit: $(REPORT) ## run the unit tests
	@mkdir -p $(OUT)/counts
	$(REPORT) -out $(OUT)/counts/unit.json -- -timeout 14m $(PACKAGES)

# The race detector has each process sleep for a second before it ends, and the scripts run hundreds. What it
# says of unsafe pointers is left out of SQLite, which was translated from C and uses them for everything.
RACEFLAGS := -race -short '-gcflags=modernc.org/...=-d=checkptr=0' -skip '$(RACESKIP)|$(RACESKIP_SCRIPTS)'

.PHONY: race
race: $(REPORT) ## run the unit tests with the race detector
	@mkdir -p $(OUT)/counts
	GORACE=atexit_sleep_ms=0 $(REPORT) -out $(OUT)/counts/race.json -- $(RACEFLAGS) -timeout 14m $(PACKAGES)

.PHONY: crash
crash: ROUNDS_ARG = $(ROUNDS)
crash: crash-run ## kill the gateway under load, ROUNDS (60) times and at every failpoint

.PHONY: crash-short
crash-short: ROUNDS_ARG = $(SHORT)
crash-short: crash-run ## the same with SHORT (7) rounds

.PHONY: crash-run
crash-run: $(REPORT) $(BIN)/gateway-failpoint $(BIN)/crashclient $(BIN)/plakar
	@mkdir -p $(OUT)/counts
	$(REPORT) -show -out $(OUT)/counts/crash.json -- -count 1 -tags crash -timeout 60m -run '^TestCrash(Sync|Pull|Restore|Prune|Maintain|Hooks|Scrub)?$$' ./internal/crash -args -rounds $(ROUNDS_ARG) -seed $(SEED)

.PHONY: peers
peers: ## run real clients against a gateway and check docs/PEERS.md, and a browser on its pages
	@status=0; for part in clients browser; do $(MAKE) --no-print-directory $$part || status=1; done; exit $$status

.PHONY: clients
clients: $(REPORT) $(BIN)/gateway $(BIN)/plakar ## the first half of peers
	@.ci/install-packages || echo "peers that are missing are left out"
	@mkdir -p $(OUT)/counts
	$(REPORT) -out $(OUT)/counts/peers.json -- -count 1 -tags peers -timeout 20m ./internal/peers

# SHOTS=DIR keeps pictures of the pages.
.PHONY: browser
browser: $(REPORT) $(BIN)/gateway $(AXE) ## the second half of peers: the web viewer in Chromium, with axe-core
	@.ci/install-packages || echo "peers that are missing are left out"
	@mkdir -p $(OUT)/counts
	$(REPORT) -dir internal/browser -out $(OUT)/counts/browser.json -- -count 1 -timeout 10m . $(if $(SHOTS),-args -shots $(abspath $(SHOTS)))

.PHONY: faults
faults: $(REPORT) $(BIN)/gateway $(BIN)/plakar ## run a gateway on disks that fill up, fail or go away (as root)
	@mkdir -p $(OUT)/counts
	$(REPORT) -out $(OUT)/counts/faults.json -- -count 1 -tags faults -timeout 10m ./internal/faults

.PHONY: stores
stores: $(REPORT) $(BIN)/gateway $(BIN)/plakar $(BIN)/versitygw ## run stores and gateways with a real S3 server and sshd
	@mkdir -p $(OUT)/counts
	$(REPORT) -out $(OUT)/counts/stores.json -- -count 1 -tags stores -run 'S3|Serve|Kill|Away|Refused' -parallel 3 -timeout 20m ./internal/stores ./store/internal/backend ./pull/restore

.PHONY: peers-update
peers-update: $(BIN)/gateway $(BIN)/plakar ## the same, and write docs/PEERS.md
	$(GO) test -count 1 -tags peers -timeout 20m ./internal/peers -args -update

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (10s)
	@GO=$(GO) .ci/fuzz $(FUZZTIME)

# Of the first, medians of five are what counts. FULL=1 takes the sizes of docs/BENCHMARKS.md.
TABLE := ^(BenchmarkCommitOneFile|BenchmarkIngest|BenchmarkReadAt)$$

.PHONY: bench
bench: bench-commits bench-servers ## measure commits, transfers and their peers (FULL=1: in full size)
	$(GO) test -run '^$$' -bench . -skip '$(TABLE)' -benchmem ./...

.PHONY: bench-commits
bench-commits: ## measure commits, ingest and reads beside kloset's Builder
	FULL=$(FULL) $(GO) test -run '^$$' -bench '$(TABLE)' -benchtime 5x -timeout 3h ./snapshotter

.PHONY: bench-servers
bench-servers: $(BIN)/gateway ## measure a gateway beside OpenSSH's sshd
	FULL=$(FULL) $(GO) test -v -count 1 -tags bench -timeout 3h -skip '^Test(Scale|View)$$' ./internal/bench

# GOGC as serve has it.
.PHONY: soak
soak: ## compare SEEDS (1000) histories with kloset's Builder; make COMMITS (10000) snapshots, restart
	SEEDS=$(SEEDS) $(GO) test -count 1 -timeout 5h -run '^TestIncrementalEqualsBuilder$$' ./snapshotter
	GOGC=50 COMMITS=$(COMMITS) $(GO) test -v -count 1 -tags soak -timeout 5h -run '^TestSoak$$' ./snapshotter

.PHONY: scale
scale: $(BIN)/gateway ## upload, commit, list, kill and restart a share of FILES (1000000) files
	FILES=$(FILES) $(GO) test -v -count 1 -tags bench -timeout 5h -run '^TestScale$$' ./internal/bench
	GOGC=50 FILES=$(FILES) $(GO) test -v -count 1 -tags soak -timeout 5h -run '^TestScale(Stored)?$$' ./snapshotter

.PHONY: bench-views
bench-views: $(BIN)/gateway ## search, compare, scrub and maintain a share of FILES files, follow a file through 1,000 snapshots, in pages and by commands as well
	FILES=$(FILES) $(GO) test -count 1 -tags soak -timeout 2h -run '^$$' -bench '^BenchmarkSearch$$' -benchtime 5x ./snapshotter
	FILES=$(FILES) $(GO) test -count 1 -tags soak -timeout 2h -run '^$$' -bench '^Benchmark(Scrub|Maintain)$$' -benchtime 1x ./snapshotter
	$(GO) test -count 1 -tags soak -timeout 2h -run '^$$' -bench '^Benchmark(History|ColdOpen)$$' -benchtime 5x ./snapshotter
	FILES=$(FILES) $(GO) test -v -count 1 -tags soak -timeout 2h -run '^TestScale$$' ./websrv
	$(GO) test -v -count 1 -tags bench -timeout 2h -run '^TestView$$' ./internal/bench

.PHONY: lint
lint: $(BIN)/golangci-lint ## check style, dependency directions and common mistakes
	$(BIN)/golangci-lint run ./...

.PHONY: fmt
fmt: $(BIN)/golangci-lint ## format the code
	$(BIN)/golangci-lint fmt ./...

# With -trimpath, what is compiled here serves bin/gateway as well.
.PHONY: cross
cross: ## compile for every platform that is supported
	@set -e; for p in $(PLATFORMS); do \
		echo "cross $$p"; \
		CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -trimpath ./...; \
	done

.PHONY: clean
clean: ## remove what the targets above built
	rm -rf $(BIN) $(OUT)
