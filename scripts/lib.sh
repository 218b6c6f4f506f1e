# Common functions of the scripts here; sourced, not run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# Where the release binaries are put by build.sh.
BIN_DIR=${WEFT_BIN_DIR:-$ROOT/target/weft}
# shellcheck disable=SC2034
RUST_WANTED=1.90

say() { printf '%s\n' "$*" >&2; }
step() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() {
	say "$(basename "$0"): $*"
	exit 1
}

# takes_value OPTION [VALUE]...: a message where the value is missing.
takes_value() { [ -n "${2:-}" ] || die "$1 takes a value"; }

# usage_of FILE: the comment at the head of a script is its help.
usage_of() { sed -n '2,/^$/{s/^# \{0,1\}//;p}' "$1"; }

is_root() { [ "$(id -u)" = 0 ]; }
need_root() { is_root || die "needs root (network namespaces, TAP devices): run it with sudo"; }

# The package lists are fetched once per run, and only if something is missing.
apt_install() {
	if ! is_root || ! command -v apt-get >/dev/null; then
		die "missing: $*. Install these packages (Debian's names) and run again."
	fi
	step "Installing $*"
	if [ -z "${APT_UPDATED:-}" ]; then
		apt-get -qq update >&2 || say "apt-get update failed; trying with the lists at hand"
		APT_UPDATED=1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >&2 ||
		die "apt-get could not install: $*"
}

# missing PACKAGE=COMMAND ...: the packages whose command (a name, or a path to a file) is missing, one a line.
missing() {
	local pair package command
	for pair in "$@"; do
		package=${pair%%=*} command=${pair#*=}
		case $command in
		/*) [ -e "$command" ] || echo "$package" ;;
		*) PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || echo "$package" ;;
		esac
	done
}

# need PACKAGE=COMMAND ...: installs those packages.
need() {
	local packages
	mapfile -t packages < <(missing "$@")
	[ ${#packages[@]} = 0 ] || apt_install "${packages[@]}"
}

# Rust new enough. Debian's own package is older; rustup is asked for, never installed behind anyone's back unless
# WEFT_INSTALL_RUST=1.
need_rust() {
	# rustup puts it where a login shell finds it, sudo does not.
	local home
	for home in "${CARGO_HOME:-}" "$HOME/.cargo" "${SUDO_USER:+$(getent passwd "${SUDO_USER:-}" | cut -d: -f6)/.cargo}"; do
		if [ -n "$home" ] && [ -x "$home/bin/cargo" ]; then
			PATH=$home/bin:$PATH
			break
		fi
	done
	local found
	found=$(cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p') || true
	if [ -n "$found" ] && [ "$(printf '%s\n' "$RUST_WANTED" "$found" | sort -V | head -n1)" = "$RUST_WANTED" ]; then
		return
	fi
	if [ "${WEFT_INSTALL_RUST:-0}" = 1 ]; then
		need curl=curl ca-certificates=/etc/ssl/certs/ca-certificates.crt
		step "Installing Rust with rustup"
		curl -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy >&2 ||
			die "rustup failed"
		PATH=$HOME/.cargo/bin:$PATH
		return
	fi
	say "missing: Rust $RUST_WANTED or later (found: ${found:-none}; Debian's own cargo is older)."
	say "  curl -sSf https://sh.rustup.rs | sh        or run again with WEFT_INSTALL_RUST=1"
	exit 1
}

need_build() {
	need gcc=gcc libc6-dev=/usr/include/stdio.h
	need_rust
}

# need_binaries: builds unless all of them are there (WEFT_BUILD=1 forces it; cargo itself finds out what is stale).
need_binaries() {
	local binary build=${WEFT_BUILD:-}
	for binary in weftd weft-keeper weft weft-cni; do
		[ -x "$BIN_DIR/$binary" ] || build=1
	done
	[ "$build" != 1 ] || "$ROOT/scripts/build.sh"
}

# in_ns NAMESPACE COMMAND...
in_ns() {
	local ns=$1
	shift
	ip netns exec "$ns" "$@"
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
	local limit=$(($1 * 20)) i
	shift
	for ((i = 0; i < limit; i++)); do
		"$@" >/dev/null 2>&1 && return 0
		sleep 0.05
	done
	return 1
}

# kill_pid PID: asks, waits up to 5 s, then insists.
kill_pid() {
	local pid=$1 i
	kill "$pid" 2>/dev/null || return 0
	# One that was stopped hears it only when it goes on.
	kill -CONT "$pid" 2>/dev/null || true
	for ((i = 0; i < 100; i++)); do
		kill -0 "$pid" 2>/dev/null || return 0
		sleep 0.05
	done
	kill -9 "$pid" 2>/dev/null || true
}

# median: of the numbers on stdin, one a line.
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print (NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2); else print "null" }'; }
