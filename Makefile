# Siltstone. `make help` lists what there is.

# The interface; these names are stable.
ARCH      ?= riscv64
PORT      ?= 6379
MEM       ?= 128M
DISK      ?= target/disk-$(ARCH).img
DISK2     ?=
DISK_SIZE ?= 256M
QEMU_ARGS ?=
QMP       ?=
KEY_FILE  ?=

TARGET_riscv64 := riscv64gc-unknown-none-elf
TARGET_aarch64 := aarch64-unknown-none-softfloat
TARGET          = $(or $(TARGET_$(ARCH)),$(error ARCH=$(ARCH) is neither riscv64 nor aarch64))

# ArceOS needs unstable features, and newer nightlies no longer build it. Hosts' crates use the stable compiler.
IMAGE_TOOLCHAIN ?= nightly-2025-12-12
IMAGE            = target/image-$(ARCH).bin

.DEFAULT_GOAL := help
.PHONY: help setup-image build run test-platform mkfs cli

## help: this list
help:
	@echo 'Siltstone: a transactional storage service that boots, on riscv64 and aarch64.'
	@echo
	@sed -nE 's/^## ([a-z-]+): (.*)/\1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  make %-14s %s\n", $$1, $$2 }'
	@echo
	@echo '  ARCH=riscv64|aarch64   the machine (riscv64)'
	@echo '  PORT=6379              on 127.0.0.1 of the host'
	@echo '  DISK=<image>           made with DISK_SIZE=256M when missing (target/disk-ARCH.img)'
	@echo '  DISK2=<image>          a second disk that mirrors the first, made like it; the two are equals'
	@echo '  KEY_FILE=<file>        the disk is encrypted with it; a blank disk will be (see README.md)'
	@echo '  MEM=128M               64M or more'
	@echo "  QEMU_ARGS='...'        appended to QEMU's"
	@echo "  QMP=<socket>           where to reach QEMU's control protocol (nowhere)"

## setup-image: install what building and booting the image needs, where it is missing
setup-image:
	@scripts/setup-image $(ARCH) $(TARGET) $(IMAGE_TOOLCHAIN)

## build: the bootable image
build: setup-image
	@scripts/build-image $(TARGET) $(IMAGE_TOOLCHAIN) $(IMAGE)

## run: boot it (telnet 127.0.0.1 6379, redis-cli); Ctrl-C shuts it down
run: build
	@$(pass-interrupts )exec qemu/run --arch $(ARCH) --image $(IMAGE) --disk '$(DISK)' --disk2 '$(DISK2)' --disk-size '$(DISK_SIZE)' \
	    --key-file '$(KEY_FILE)' --port '$(PORT)' --mem '$(MEM)' --qmp '$(QMP)' -- $(QEMU_ARGS)

# So that Ctrl-C ends `make run` with the machine's exit status, not with make's (the file says how). Only
# this one target needs it; a make that cannot load it goes on without.
ifneq ($(filter run,$(MAKECMDGOALS)),)
-load target/make_interrupts.so
target/make_interrupts.so: scripts/make-interrupts.c
	@mkdir -p target
	@$(CC) -shared -fPIC -O2 -o $@ $< 2>/dev/null || true
endif

## test-platform: the drivers, on both machines themselves
test-platform:
	@$(foreach arch,riscv64 aarch64,scripts/setup-image $(arch) $(TARGET_$(arch)) $(IMAGE_TOOLCHAIN) && \
	    scripts/test-platform $(arch) $(TARGET_$(arch)) $(IMAGE_TOOLCHAIN) &&) true

## mkfs: make DISK an empty store, whatever it holds now
mkfs:
	@qemu/run --erase --disk '$(DISK)' --disk-size '$(DISK_SIZE)'

## cli: the host tool for images, as target/release/siltstone
cli:
	$(CARGO) build --release -p cli

include scripts/test.mk
test: test-platform
