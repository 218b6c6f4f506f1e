#!/usr/bin/env bash
# Fuzzes what strangers may send to weft, guided by coverage (libFuzzer): frames, virtio headers, VXLAN packets, CNI
# calls, API bodies, files, stored objects. Needs a C++ compiler besides Rust; the compiler flags are those of the
# stable toolchain. What a run finds goes to tests/fuzz/artifacts; what it learnt is kept in tests/fuzz/corpus and,
# with --keep, minimised into tests/corpus, which the tests replay.
#
# usage: fuzz.sh [--minutes N] [--target NAME]... [--keep] [--list]
#   --minutes N     minutes for each target (default 5)
#   --target NAME   only this one (may be given more than once; default: all)
#   --keep          put what reaches new code into tests/corpus afterwards, as few and small files as do
#   --list          print the names of the targets
#
# A finding: tests/fuzz/artifacts/NAME/crash-…; reproduce it with
#   tests/fuzz/target/x86_64-unknown-linux-gnu/release/NAME FILE
# and put it into tests/corpus/NAME once it is fixed.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

FUZZ=$ROOT/tests/fuzz
MINUTES=5
KEEP=''
TARGETS=()
all_targets() { find "$FUZZ/fuzz_targets" -name '*.rs' -printf '%f\n' | sed 's/\.rs$//' | sort; }
while [ $# -gt 0 ]; do
	case $1 in
	--minutes) takes_value "$@" && MINUTES=$2 && shift ;;
	--target) takes_value "$@" && TARGETS+=("$2") && shift ;;
	--keep) KEEP=1 ;;
	--list) all_targets && exit ;;
	-h | --help) usage_of "$0" && exit ;;
	*) die "unknown argument $1 (see --help)" ;;
	esac
	shift
done
[[ $MINUTES =~ ^[0-9]+$ ]] || die "--minutes $MINUTES: expected a whole number"
[ ${#TARGETS[@]} -gt 0 ] || mapfile -t TARGETS < <(all_targets)
for target in "${TARGETS[@]}"; do
	[ -e "$FUZZ/fuzz_targets/$target.rs" ] || die "no target named $target; expected one of: $(all_targets | xargs)"
done

need_build
need g++=g++
HOST=$(rustc -vV | sed -n 's/^host: //p')
# What cargo-fuzz sets, less the sanitizer, which only an unstable compiler has: the code is free of unsafe.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
 -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0"
step "Building"
# With --target, build scripts and macros are not instrumented.
cargo build --release --locked --manifest-path "$FUZZ/Cargo.toml" --target "$HOST"
BIN=$FUZZ/target/$HOST/release

failed=()
for target in "${TARGETS[@]}"; do
	step "$target, $MINUTES minutes"
	found=$FUZZ/corpus/$target kept=$ROOT/tests/corpus/$target artifacts=$FUZZ/artifacts/$target
	mkdir -p "$found" "$kept" "$artifacts"
	"$BIN/$target" -max_total_time=$((MINUTES * 60)) -timeout=10 -rss_limit_mb=2048 -max_len=8192 -print_final_stats=1 \
		-artifact_prefix="$artifacts/" "$found" "$kept" 2>"$artifacts/log" || failed+=("$target")
	grep -E 'stat::(number_of_executed_units|new_units_added)|panicked|SUMMARY' "$artifacts/log" || true
	if [ -n "$KEEP" ]; then
		"$BIN/$target" -merge=1 -timeout=10 -max_len=2048 "$kept" "$found" 2>>"$artifacts/log" || failed+=("$target")
	fi
done
[ ${#failed[@]} -eq 0 ] || die "found something: ${failed[*]}; see tests/fuzz/artifacts/"
