#!/usr/bin/env bash
# Lets things happen to a node's daemon under load, and shows what traffic noticed of it.
#
# usage: chaos.sh [options]
#   --quick         under ten minutes: 3 rounds
#   --rounds N      how often each event happens on each path (default: 20)
#   --events A,B    only these: nothing, crash, config, reload, restart, upgrade, cluster-while-down, wedged
#   --paths A,B     only these: same-node, across-nodes, node-pod
#   --json FILE     writes [{"event","rounds","connections_broken","packets_lost","blocked_ms_p50","blocked_ms_max"}]
#
# Two nodes in network namespaces, their daemons under weft-keeper. Load between two ends during every event: 16 TCP
# connections whose bytes are checked, half of them each way; a datagram every millisecond one way, and 10,000 per second
# the other way. Connections broken: ended, stalled for 15 s, or other bytes than were sent. Packets lost: datagrams of
# both that never came. Blocked: the longest time between two arrivals, less the sender's interval. The event "nothing"
# shows what the machine's own scheduling does. Everything is removed at the end, also after an interrupt.
#
# WEFT_BIN_DIR says where the binaries are; WEFT_BENCH names weft-bench, else it is beside them, or built.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

ROUNDS=20
JSON=''
ARGS=()
while [ $# -gt 0 ]; do
	case $1 in
	--quick) ROUNDS=3 ;;
	--rounds) ROUNDS=${2:?} && shift ;;
	--events) ARGS+=(--events "${2:?}") && shift ;;
	--paths) ARGS+=(--paths "${2:?}") && shift ;;
	--json) JSON=$(realpath -m "${2:?}") && shift ;;
	-h | --help) usage_of "$0" && exit ;;
	*) die "unknown argument $1 (see --help)" ;;
	esac
	shift
done
[[ $ROUNDS =~ ^[1-9][0-9]{0,3}$ ]] || die "--rounds takes 1 to 9999"

need_root
need iproute2=ip procps=sysctl nftables=nft util-linux=nsenter
need_binaries
TOOL=${WEFT_BENCH:-$BIN_DIR/weft-bench}
if [ ! -x "$TOOL" ]; then
	need_build
	step "Building weft-bench"
	(cd "$ROOT" && cargo build --release --locked -p weft-bench --bins)
	TOOL=${CARGO_TARGET_DIR:-$ROOT/target}/release/weft-bench
fi

# Of this run alone: several may go on side by side.
LAB=ch$$
RUNNING=''
cleanup() {
	[ -z "$RUNNING" ] || kill_pid "$RUNNING"
	"$ROOT/scripts/lab.sh" down --lab "$LAB"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step "Making two nodes"
"$ROOT/scripts/lab.sh" up two-nodes --keeper --lab "$LAB" --pods 2 >/dev/null
"$TOOL" chaos --lab "$LAB" --bin-dir "$BIN_DIR" --rounds "$ROUNDS" ${ARGS+"${ARGS[@]}"} ${JSON:+--json-file "$JSON"} &
RUNNING=$!
# A wait that a signal interrupts lets the traps above run.
wait "$RUNNING" || { code=$?; RUNNING=''; exit "$code"; }
RUNNING=''
