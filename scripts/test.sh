#!/usr/bin/env bash
# Runs every test: formatting, lints, unit tests, and the whole-system tests in real network namespaces (as root;
# without root those say that they are skipped). Installs what is missing.
#
# usage: test.sh [--quick] [-- ARGUMENTS OF cargo test]
#   --quick   no whole-system tests, no release build, no counting of instructions

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

QUICK=''
while [ $# -gt 0 ]; do
	case $1 in
	--quick) QUICK=1 ;;
	-h | --help) usage_of "$0" && exit ;;
	--)
		shift
		break
		;;
	*) die "unknown argument $1 (see --help)" ;;
	esac
	shift
done

cd "$ROOT"
need_build
# What the whole-system tests use.
PACKAGES=(iproute2=ip iperf3=iperf3 nftables=nft ethtool=ethtool iputils-ping=ping tcpdump=tcpdump tshark=tshark
	python3=python3 python3-scapy=/usr/lib/python3/dist-packages/scapy/__init__.py podman=podman crun=crun
	containernetworking-plugins=/usr/lib/cni/bridge conntrack=conntrack busybox-static=busybox jq=jq
	valgrind=valgrind procps=sysctl netcat-openbsd=nc.openbsd systemd=systemd-analyze iptables=iptables curl=curl strace=strace)
if [ -z "$QUICK" ] && is_root; then
	need "${PACKAGES[@]}"
elif [ -z "$QUICK" ]; then
	mapfile -t absent < <(missing "${PACKAGES[@]}")
	say "without root the whole-system tests are skipped"
	[ ${#absent[@]} = 0 ] || say "they would also need these packages (Debian's names), missing: ${absent[*]}"
fi

step "Formatting"
cargo fmt --all --check
step "Lints"
cargo clippy --workspace --all-targets --locked -- -D warnings
step "Shell scripts"
for script in scripts/*.sh scripts/lab/*.sh tests/kube/*.sh tests/kube/nets/*.sh .ci/run; do bash -n "$script"; done
if command -v shellcheck >/dev/null; then shellcheck -x scripts/*.sh scripts/lab/*.sh tests/kube/*.sh tests/kube/nets/*.sh .ci/run; fi
if command -v cargo-deny >/dev/null; then
	step "Licences and bans"
	cargo deny --offline check licenses bans sources
fi

if [ -n "$QUICK" ]; then
	step "Unit tests"
	cargo test --no-fail-fast --workspace --exclude weft-tests --locked "$@"
	exit
fi
"$ROOT/scripts/build.sh"
export WEFT_BIN_DIR=$BIN_DIR
# Made once, with what counts instructions; a test that finds none builds its own.
cargo build --release --locked -p weft-bench --bins
export WEFT_BENCH=${CARGO_TARGET_DIR:-$ROOT/target}/release/weft-bench
if command -v valgrind >/dev/null; then
	"$ROOT/scripts/instructions.sh"
else
	say "instructions are not counted: there is no valgrind"
fi
step "Unit tests"
cargo test --no-fail-fast --workspace --exclude weft-tests --locked "$@"
step "Whole-system tests"
# Timing matters to them more than parallelism: one at a time.
cargo test --no-fail-fast -p weft-tests --locked "$@" -- --test-threads=1
