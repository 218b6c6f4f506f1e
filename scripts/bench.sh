#!/usr/bin/env bash
# Measures weft side by side with other switches, in turns within one run: what does it cost to leave the kernel?
#
# usage: bench.sh [options]
#   --quick          under ten minutes: 3 rounds of one second, and one of what takes long (cni, idle, scale); without
#                    tcp8, and tcp4 with reno, unless --works names them
#   --rounds N       rounds; the first does not count (default: 6)
#   --seconds N      length of one measurement (default: 3)
#   --peers A,B      only these beside weft: kernel, ovs, ovs-tso, ovs-afxdp, plain, weft-afxdp
#   --works A,B      only works whose names start so: tcp1, tcp4, tcp8, udp1400, udp64, rr, crr, cni, idle, scale
#   --json FILE      writes [{"work","unit","better","medians":{…},"spread":{…},"ratio_to_kernel"}]
#   --markdown FILE  writes the table
#   --plot FILE      draws the ratios, as SVG
#
# kernel     bridge + veth; bridge + VXLAN as flannel sets it up
# ovs        Open vSwitch, userspace datapath, TAP ports, as its manual sets it up; ovs-tso: with userspace-tso-enable;
#            ovs-afxdp: pods and uplinks on AF_XDP ports
# weft-afxdp weft with its pods on AF_XDP ports, and uplinks by AF_XDP
# plain      two TAP devices without vnet header and a copy loop (one node only): what a vnet header is worth
#
# Names of works: tcp4-across-cut-reno is 4 TCP streams across nodes with reno, over an underlay that cuts to its MTU as a
# NIC does (ethtool -K on the underlay's veth); without -reno BBR is used, where the kernel has it. All offloads are as
# each side's defaults have them, all pods have one MTU; but tcp1-same-node-bigmtu is between pods whose devices have an
# MTU of 65521 (lab.sh --local-mtu), over weft and the kernel's bridge. cni: calls of weft-cni, and of the reference
# plugins bridge and host-local on the kernel's node, where they are installed (Debian: containernetworking-plugins).
# idle and scale: weft alone, on nodes of their own, with many ports, remote nodes, FDB entries or flows; flows over the
# kernel's bridge, too. Everything is removed at the end, also after an interrupt.
#
# WEFT_BIN_DIR says where the binaries are; WEFT_BENCH names weft-bench, else it is beside them, or built.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PEERS=kernel,ovs,ovs-tso,ovs-afxdp,weft-afxdp,plain
ROUNDS=6 SECONDS_EACH=3 ARGS=()
while [ $# -gt 0 ]; do
	case $1 in
	--quick) ROUNDS=3 SECONDS_EACH=1 ARGS+=(--quick) ;;
	--rounds) takes_value "$@" && ROUNDS=$2 && shift ;;
	--seconds) takes_value "$@" && SECONDS_EACH=$2 && shift ;;
	--works | --markdown | --plot) takes_value "$@" && ARGS+=("$1" "$2") && shift ;;
	--json) takes_value "$@" && ARGS+=(--json-file "$2") && shift ;;
	--peers) [ $# -gt 1 ] || takes_value "$@"; PEERS=$2 && shift ;; # none: weft alone
	-h | --help) usage_of "$0" && exit ;;
	*) die "unknown argument $1 (see --help)" ;;
	esac
	shift
done

need_root
need iproute2=ip iperf3=iperf3 iputils-ping=ping ethtool=ethtool nftables=nft procps=sysctl
WEFT_BUILD=${WEFT_BUILD:-1} need_binaries
export WEFT_BUILD=0 WEFT_BENCH=${WEFT_BENCH:-$BIN_DIR/weft-bench}
if [ ! -x "$WEFT_BENCH" ]; then
	need_build
	step "Building weft-bench"
	(cd "$ROOT" && cargo build --release --locked -p weft-bench --bins)
	WEFT_BENCH=${CARGO_TARGET_DIR:-$ROOT/target}/release/weft-bench
fi
CC=cubic
modprobe -q tcp_bbr 2>/dev/null || true
if grep -qw bbr /proc/sys/net/ipv4/tcp_available_congestion_control; then CC=bbr; fi

LABS=()
cleanup() {
	local lab
	for lab in "${LABS[@]}"; do
		"$ROOT/scripts/lab.sh" down --quiet --lab "$lab" || true
	done
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# add NAME TOPOLOGY: a lab of this run alone; a peer that cannot be had is left out with a word.
add() {
	local name=$1 lab=b${#LABS[@]}x$(($$ % 100000))
	LABS+=("$lab")
	step "Lab of $name"
	if "$ROOT/scripts/lab.sh" up "$2" --lab "$lab" --cc "$CC" >/dev/null; then
		case $name in weft | kernel)
			LABS+=("${lab}b")
			"$ROOT/scripts/lab.sh" up "$2" --lab "${lab}b" --cc "$CC" --local-mtu 65521 >/dev/null
			lab=$lab,${lab}b
			;;
		esac
		ARGS+=(--peer "$name=$lab")
	elif [ "$name" = weft ]; then
		die "there is no weft to measure"
	else
		say "left out: $name"
	fi
}

add weft two-nodes
for peer in ${PEERS//,/ }; do
	case $peer in
	kernel) add kernel kernel-nodes ;;
	ovs) add ovs ovs-nodes ;;
	ovs-tso) add ovs-tso ovs-tso ;;
	ovs-afxdp) add ovs-afxdp ovs-afxdp ;;
	weft-afxdp) add weft-afxdp weft-afxdp ;;
	plain) add plain plain-node ;;
	*) die "--peers: there is no $peer (see --help)" ;;
	esac
done
step "Measuring on Linux $(uname -r), $(nproc) CPUs, TCP with $CC"
"$WEFT_BENCH" side --bin-dir "$BIN_DIR" --rounds "$ROUNDS" --seconds "$SECONDS_EACH" "${ARGS[@]}"
