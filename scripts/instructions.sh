#!/usr/bin/env bash
# Counts the instructions of the fast path, and fails when something takes more than before. A busy machine makes times
# useless, and changes nothing here. Under a minute once it is built. x86-64 with AVX2 only.
#
# usage: instructions.sh [options] [SUBJECT…]     (all subjects, if none is named)
#   --update         makes what is counted now the baseline: bench/instructions.toml
#   --limit PERCENT  how much more is too much (default: 5; 15 with another compiler or C library than the baseline's)
#
# valgrind counts (callgrind); without it, root installs it. What is a subject: bench/src/bin/instructions.rs.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

BASELINE=$ROOT/bench/instructions.toml
UPDATE='' LIMIT='' SUBJECTS=()
while [ $# -gt 0 ]; do
	case $1 in
	--update) UPDATE=1 ;;
	--limit) takes_value "$@" && LIMIT=$2 && shift ;;
	-h | --help) usage_of "$0" && exit ;;
	-*) die "unknown argument $1 (see --help)" ;;
	*) SUBJECTS+=("$1") ;;
	esac
	shift
done
[ -z "$UPDATE" ] || [ ${#SUBJECTS[@]} = 0 ] || die "--update is for all subjects"
if ! grep -qw avx2 /proc/cpuinfo; then
	say "skipped: the baseline is for x86-64 with AVX2"
	exit
fi
need valgrind=valgrind
need_build
step "Building weft-instructions"
(cd "$ROOT" && cargo build --release --locked -p weft-bench --bin weft-instructions)
PROGRAM=${CARGO_TARGET_DIR:-$ROOT/target}/release/weft-instructions

# To the program every CPU with AVX2 looks the same under valgrind, so it picks the same vectors anywhere, and glibc the
# same memcpy; but not the one of a single instruction per copy, which is counted once a byte.
export GLIBC_TUNABLES=glibc.cpu.hwcaps=-ERMS,-FSRM
TOOLS="rustc $(rustc --version | cut -d' ' -f2), glibc $(getconf GNU_LIBC_VERSION | cut -d' ' -f2)"
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

# count SUBJECT: instructions within the function `counted`, per element.
count() {
	local elements total
	elements=$(valgrind --tool=callgrind --toggle-collect='weft_instructions::counted*' \
		--callgrind-out-file="$WORK/out" "$PROGRAM" "$1" 2>"$WORK/log") || {
		cat "$WORK/log" >&2
		die "$1 cannot be counted"
	}
	total=$(sed -n 's/^totals: //p' "$WORK/out")
	[ "${total:-0}" -gt 0 ] || die "$1: nothing was counted"
	awk -v total="$total" -v elements="$elements" 'BEGIN { printf "%.5g\n", total / elements }'
}

step "Counting instructions ($TOOLS)"
"$PROGRAM" >"$WORK/all"
: >"$WORK/now"
while read -r subject unit; do
	if [ ${#SUBJECTS[@]} = 0 ] || [[ " ${SUBJECTS[*]} " = *" $subject "* ]]; then
		echo "$subject $unit $(count "$subject")" >>"$WORK/now"
	fi
done <"$WORK/all"
[ -s "$WORK/now" ] || die "there is no such subject; there are: $(cut -d' ' -f1 "$WORK/all" | xargs)"

if [ -n "$UPDATE" ]; then
	{
		echo "# Instructions per element of what weft does. scripts/instructions.sh --update writes this file."
		echo "tools = \"$TOOLS\""
		echo
		echo "[instructions]"
		awk '{ printf "%s = %s # per %s\n", $1, $3, $2 }' "$WORK/now"
	} >"$BASELINE"
	cat "$BASELINE"
	exit
fi
if ! grep -qxF "tools = \"$TOOLS\"" "$BASELINE"; then
	LIMIT=${LIMIT:-15}
	say "the baseline was made with other tools: $(sed -n 's/^tools = //p' "$BASELINE"); up to $LIMIT % more pass"
fi
awk -v limit="${LIMIT:-5}" '
	NR == FNR { if ($2 == "=") before[$1] = $3; next }
	FNR == 1 { printf "%-24s %10s %10s %8s\n", "instructions", "before", "now", "" }
	!($1 in before) { print $1 " is not in the baseline: --update"; failed = 1; next }
	{
		more = ($3 / before[$1] - 1) * 100
		grew = more > limit
		printf "%-24s %10s %10s %+7.1f%% per %s%s\n", $1, before[$1], $3, more, $2, grew ? "  TOO MANY" : ""
		if (grew) { failed = 1; worse = worse sprintf("\n%s takes %s instructions per %s; it took %s", $1, $3, $2, before[$1]) }
		if (more < -limit) better = 1
	}
	END {
		if (better) print "some take fewer: let --update keep that"
		if (worse) print "failed: more than " limit " % grown:" worse "\nIf that is meant: scripts/instructions.sh --update, and say why in the commit."
		exit failed
	}' "$BASELINE" "$WORK/now"
