#!/usr/bin/env bash
# Lets things happen to a node's daemon under load, and shows what traffic noticed of it.
#
# usage: chaos.sh [options]
#   --quick         under ten minutes: 3 rounds
#   --rounds N      how often each event happens on each path (default: 20)
#   --events A,B    only these: nothing, crash, config, reload, restart, upgrade, cluster-while-down, wedged, overload
#   --paths A,B     only these: same-node, across-nodes, node-pod
#   --afxdp         pods on AF_XDP ports, uplinks by AF_XDP
#   --json FILE     writes [{"event","rounds","connections_broken","packets_lost","blocked_ms_p50","blocked_ms_max"}]
#
# Two nodes in network namespaces, their daemons under weft-keeper. Load between two ends during every event: 16 TCP
# connections whose bytes are checked, half of them each way; a datagram every millisecond one way, and 10,000 per second
# the other way. Connections broken: ended, stalled for 15 s, or other bytes than were sent. Packets lost: datagrams of
# both that never came. Blocked: the longest time between two arrivals, less the sender's interval. The event "nothing"
# shows what the machine's own scheduling does.
#
# Event "overload", a table of its own: round trips between two pods of a node, one request at a time, while a third pod
# floods a fourth (with broadcasts; a new flow with every packet; bad packets), or clients of the control socket ask as
# fast as they are answered; the same in turn on a node of kernel bridge and veth. In the JSON these are the events
# overload-calm (no flood), overload-broadcast, -flows, -bad, -api, with requests for packets, the longest round trip for
# the time blocked, and the figures of both sides beside them. Everything is removed at the end, also after an interrupt.
#
# WEFT_BIN_DIR says where the binaries are; WEFT_BENCH names weft-bench, else it is beside them, or built.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

ROUNDS=20
JSON=''
EVENTS=''
TOPOLOGY=two-nodes
ARGS=()
while [ $# -gt 0 ]; do
	case $1 in
	--quick) ROUNDS=3 ;;
	--rounds) takes_value "$@" && ROUNDS=$2 && shift ;;
	--events) takes_value "$@" && EVENTS=$2 && shift ;;
	--paths) takes_value "$@" && ARGS+=(--paths "$2") && shift ;;
	--afxdp) TOPOLOGY=weft-afxdp ;;
	--json) takes_value "$@" && JSON=$(realpath -m "$2") && shift ;;
	-h | --help) usage_of "$0" && exit ;;
	*) die "unknown argument $1 (see --help)" ;;
	esac
	shift
done
[[ $ROUNDS =~ ^[1-9][0-9]{0,3}$ ]] || die "--rounds takes 1 to 9999"

# The overload has a table of its own.
OVERLOAD=''
if [ -z "$EVENTS" ]; then
	OVERLOAD=1 CHAOS=1
else
	CHAOS=$(tr ',' '\n' <<<"$EVENTS" | { grep -vx overload || true; } | paste -sd,)
	[[ ,$EVENTS, != *,overload,* ]] || OVERLOAD=1
	ARGS+=(${CHAOS:+--events "$CHAOS"})
fi

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
KERNEL_LAB=ck$$
RUNNING=''
cleanup() {
	[ -z "$RUNNING" ] || kill_pid "$RUNNING"
	"$ROOT/scripts/lab.sh" down --quiet --lab "$LAB"
	"$ROOT/scripts/lab.sh" down --quiet --lab "$KERNEL_LAB"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# run COMMAND...: a wait that a signal interrupts lets the traps above run.
CODE=0
run() {
	"$@" &
	RUNNING=$!
	wait "$RUNNING" || CODE=$?
	RUNNING=''
}

step "Making two nodes"
"$ROOT/scripts/lab.sh" up "$TOPOLOGY" --keeper --lab "$LAB" --pods 4 >/dev/null
[ -z "$JSON" ] || rm -f "$JSON"
if [ -n "$CHAOS" ]; then
	run "$TOOL" chaos --lab "$LAB" --bin-dir "$BIN_DIR" --rounds "$ROUNDS" ${ARGS+"${ARGS[@]}"} ${JSON:+--json-file "$JSON"}
fi
if [ -n "$OVERLOAD" ]; then
	step "Making two nodes of kernel bridge and VXLAN"
	"$ROOT/scripts/lab.sh" up kernel-nodes --lab "$KERNEL_LAB" --pods 4 >/dev/null
	run "$TOOL" overload --lab "$LAB" --kernel-lab "$KERNEL_LAB" --rounds "$ROUNDS" ${JSON:+--json-file "$JSON"}
fi
[ "$CODE" = 0 ] || exit "$CODE"
