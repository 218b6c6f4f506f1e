#!/usr/bin/env bash
# Builds the release binaries into target/weft: weftd, weft-keeper, weft, and weft-cni (small, static: it is copied
# onto hosts of any distribution).
#
# usage: build.sh [--help]

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
case ${1:-} in
-h | --help) usage_of "$0"; exit ;;
?*) die "unknown argument $1 (see --help)" ;;
esac

need_build
cd "$ROOT"
out=$ROOT/target/weft
mkdir -p "$out"

# Replaces even a running binary: a new file takes the name, nobody writes into the old one.
put() {
	cp "$1" "$out/.$2.new"
	mv "$out/.$2.new" "$out/$2"
}

step "Building weftd, weft-keeper and weft"
cargo build --release --locked -p weft-switch -p weft-keeper -p weft-ctl --bins
put target/release/weftd weftd
put target/release/weft-keeper weft-keeper
put target/release/weft weft

step "Building weft-cni (static)"
# With an explicit --target, the flag stays away from build scripts and procedural macros, which cannot be static.
host=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" \
	cargo build --profile cni --locked -p weft-cni --target "$host"
put "target/$host/cni/weft-cni" weft-cni
if ldd "$out/weft-cni" 2>/dev/null | grep -q '=>'; then
	die "weft-cni is not static: $(ldd "$out/weft-cni")"
fi
ls -l "$out" >&2
