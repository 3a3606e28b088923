# Tests, checks, benchmarks and fuzzing; included by the Makefile. What is missing is installed first.

CARGO ?= cargo
# The image's compiler; why this one is said where the Makefile builds the image.
IMAGE_TOOLCHAIN ?= nightly-2025-12-12
# Runs each test in a process of its own where installed; the same tests run without it.
TEST_RUNNER = $(if $(shell $(CARGO) nextest --version 2>/dev/null),nextest run --no-fail-fast,test --no-fail-fast)
ARCHES := riscv64 aarch64

.PHONY: test test-host test-cli test-machines test-clients check audit bench bench-cache bench-files bench-docs bench-peer fuzz
.PHONY: bench-engine bench-engine-docs bench-engine-smoke

## test: everything CI needs: unit, model and crash tests on the host, end to end on both machines
test: test-host test-cli test-machines

test-host:
	$(CARGO) $(TEST_RUNNER)
	$(CARGO) test --quiet --doc
	SILTSTONE_MISSES=1 $(CARGO) test -p app --test it
	SILTSTONE_TEST_KEY=1 $(CARGO) test -p lfs --test it -- --skip files_crash:: crash:: check:: faults:: files_recovery::
	SILTSTONE_TEST_KEY=2 $(CARGO) test -p lfs --test it -- --skip files_crash:: --skip files_faults:: crash:: faults:: files_recovery::

# Mounts images and runs programs on them: as root.
test-cli:
	scripts/setup-test --cli
	$(CARGO) $(TEST_RUNNER) -p cli

# What the tests start is built before them, so that no test waits for a compiler.
test-machines: hosted-and-images
	scripts/setup-test
	$(CARGO) $(TEST_RUNNER) -p tests -p fuzz-bodies

.PHONY: hosted-and-images
hosted-and-images:
	$(CARGO) build -p app --features hosted
	$(CARGO) build -p cli
	$(foreach arch,$(ARCHES),$(MAKE) --no-print-directory build ARCH=$(arch) &&) true

## crash-campaign: power cuts under every workload of up to three operations, of a disk and of mirrors (CRASH_STATES, CRASH_JOBS, CRASH_FROM, SILTSTONE_SEED)
CRASH_STATES ?= 10000000
.PHONY: crash-campaign
crash-campaign:
	SILTSTONE_CRASH_STATES=$(CRASH_STATES) SILTSTONE_CRASH_JOBS=$(CRASH_JOBS) SILTSTONE_CRASH_FROM=$(CRASH_FROM) \
	    $(CARGO) test --profile campaign -p lfs --features campaign --test it -- --nocapture campaign::campaign

## large-data: 2 GiB of data in a machine of 64 MiB, and what a start costs with 1, 10 and 100 times the data (LARGE_MIB, LARGE_ARCH)
.PHONY: large-data
large-data: hosted-and-images
	scripts/setup-test
	$(CARGO) test -p tests --features large --test large -- --nocapture

## test-clients: node-redis and ioredis from npm, against both machines
test-clients: hosted-and-images
	scripts/setup-test --node
	$(CARGO) $(TEST_RUNNER) -p tests --features node --test node

## check: format, lints, arrows between crates, no_std, licences and sources of dependencies, documentation
check:
	scripts/check $(IMAGE_TOOLCHAIN)

## audit: known advisories against dependencies (fetches the RustSec database from GitHub)
audit:
	scripts/setup-test --deny
	$(CARGO) deny check advisories

## bench: the figures that matter, as tables and in target/bench.jsonl: the service, then bench-files, bench-cache
bench: hosted-and-images
	scripts/setup-test
	$(CARGO) run --quiet --release -p tests --bin bench
	$(MAKE) --no-print-directory bench-files bench-cache

# Size of the disk that the cleaner is measured on.
CLEANER_MIB ?= 128
# Large buffers come and go all the time: glibc is to keep their memory instead of asking the kernel for it again and again.
BENCH_FILES = MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296 \
    $(CARGO) run --quiet --release -p tests --bin bench-files -- --mib $(CLEANER_MIB)

## bench-files: what the file system costs, beside ext4 (as root), also in target/bench-files.jsonl
bench-files: cli
	scripts/setup-test --ext4
	$(BENCH_FILES)

## bench-cache: what each policy of the cache finds, in thousandths, on four traces
bench-cache:
	$(CARGO) test --quiet -p kvstore --lib -- hit_ratios --nocapture

## bench-docs: bench-files, and its tables and picture in docs/bench
bench-docs: cli
	scripts/setup-test --ext4
	$(BENCH_FILES) --docs

## bench-peer: the same load on Linux + Redis in the same emulated machine, and the ratios
bench-peer: hosted-and-images
	scripts/setup-test
	$(CARGO) run --quiet --release -p tests --bin bench -- --peer

## bench-engine: the key-value store beside embedded peers on this host (BENCH_MIB, BENCH_SECONDS, BENCH_ROUNDS, BENCH_DIR ...)
bench-engine:
	scripts/bench-engine

## bench-engine-docs: bench-engine, and its tables and pictures in docs/bench
bench-engine-docs:
	scripts/bench-engine --docs

## bench-engine-smoke: whether bench-engine measures what is right: every workload on every engine, every byte checked
bench-engine-smoke:
	scripts/bench-engine --test --smoke

## fuzz: cargo-fuzz on every target, FUZZ_SECONDS each; finds go to target/fuzz and fuzz/artifacts
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := request_parser mount fsck backup keys mirror
fuzz: $(FUZZ_TARGETS:%=fuzz-%)

.PHONY: $(FUZZ_TARGETS:%=fuzz-%)
$(FUZZ_TARGETS:%=fuzz-%): fuzz-%:
	scripts/setup-test --fuzz $(IMAGE_TOOLCHAIN)
	mkdir -p target/fuzz/$*
	$(CARGO) +$(IMAGE_TOOLCHAIN) fuzz run $* target/fuzz/$* fuzz/corpus/$* -- -max_total_time=$(FUZZ_SECONDS)
