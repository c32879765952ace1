# make demo   installs what the build needs, builds, and plays a stream through DNS on this machine
# make test   installs what the tests need, and runs them
# make help   lists the rest

.PHONY: help demo test build install interop fuzz bench cross check clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo:
	@scripts/setup.sh build
	cargo run --release --locked -- demo

test:
	@scripts/setup.sh test
	cargo test --locked

# make build  installs what the build needs, and builds target/release/aodns
build:
	@scripts/setup.sh build
	cargo build --release --locked

# make install  builds, and copies the program to $(PREFIX)/bin
PREFIX ?= /usr/local
install: build
	install -D -m 755 target/release/aodns $(DESTDIR)$(PREFIX)/bin/aodns

# make interop  real streams through real resolvers, and to and from independent peers (7 minutes)
interop:
	@scripts/setup.sh test
	scripts/interop.sh

# make fuzz   every fuzz target for 60 s
fuzz:
	@scripts/setup.sh build
	scripts/fuzz.sh 60

# make bench  CPU per query beside Knot DNS and NSD
bench:
	@scripts/setup.sh test
	bench/answering.py

# make cross  builds for the Raspberry Pi (64 and 32 bits), and runs the demo under qemu
cross:
	scripts/cross.sh aarch64
	scripts/cross.sh armv7

# make check  what CI runs
check:
	.ci/run

clean:
	cargo clean
