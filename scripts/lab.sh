#!/usr/bin/env bash
# Makes networks of "nodes" and "pods" in network namespaces, to play with and to measure.
#
# usage: lab.sh up TOPOLOGY [options]   make one; prints what can be done with it
#        lab.sh down [--lab NAME]       remove it, whatever is left of it; says so if there is none, not with --quiet
#        lab.sh exec [--lab NAME] WHERE COMMAND...   run a command: WHERE is n1 (a node) or n1/pod1 (a pod)
#        lab.sh list                    labs that are up, with their nodes, pods and addresses
#        lab.sh topologies              what can be made
#
# options of up:
#   --lab NAME     name of the lab, the prefix of its namespaces (default: weft)
#   --pods N       pods per node (default: 2)
#   --ipv6         pods get IPv6 addresses, too
#   --mtu N        MTU of the underlay (default: 1500; pods get 50 less, 70 with --underlay6)
#   --local-mtu N  MTU of pods and node towards each other on one node (weft and kernel nodes); other routes have the pods' MTU
#   --underlay6    the nodes' own addresses are IPv6
#   --keeper       weftd runs under weft-keeper: kill it and look
#   --cc NAME      TCP congestion control of all pods, where the kernel has it (default: the kernel's)
#   --quiet        print nodes and pods only, not what can be done with them
# WEFT_LAB names the lab for every command; WEFT_BIN_DIR says where the binaries are.
#
# Each weft node has its own weftd with its files in /run/weft-lab/LAB/NODE: cluster.toml, log, and weft.toml for what is
# not given by flags. Pods are wired by the plugin, called as a container runtime does. `lab.sh exec n1 weft show` speaks to
# that node's daemon.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/lab/kernel.sh
. "$(dirname "$0")/lab/kernel.sh"
# shellcheck source=scripts/lab/peers.sh
. "$(dirname "$0")/lab/peers.sh"

LAB=${WEFT_LAB:-weft} QUIET=''
RUN=/run/weft-lab
VNI=1
VXLAN_PORT=4789

topologies() {
	cat <<-'EOF'
		one-node      one weft node
		two-nodes     two weft nodes, joined by an underlay (a veth pair with all offloads on)
		weft-afxdp    the same, pods on AF_XDP ports, uplinks by AF_XDP
		kernel-peer   n1 is a weft node, n2 a node of kernel bridge + VXLAN, set up as flannel does
		kernel-nodes  n1 and n2 are nodes of kernel bridge + VXLAN: what weft is compared with
		ovs-nodes     n1 and n2 are nodes of Open vSwitch in userspace, pods on TAP ports, VXLAN between them
		ovs-tso       the same with userspace-tso-enable
		ovs-afxdp     the same, pods and uplinks on AF_XDP ports (busy: its threads never sleep)
		plain-node    two pods, and a loop that copies frames between two TAP devices
	EOF
}

main() {
	local verb=${1:-}
	[ $# = 0 ] || shift
	case $verb in
	up) up "$@" ;;
	down) down "$@" ;;
	exec) enter "$@" ;;
	list) list ;;
	topologies) topologies ;;
	-h | --help | help | '') usage_of "$0" ;;
	*) die "unknown command $verb (see --help)" ;;
	esac
}

# ---------------------------------------------------------------- up

up() {
	PODS=2 IPV6='' MTU=1500 LOCAL_MTU='' UNDERLAY6='' CC='' KEEPER='' PORT_TYPE=''
	local topology=${1:-}
	[ -n "$topology" ] || die "up needs a topology: $(topologies | awk '{ printf "%s ", $1 }')"
	shift
	while [ $# -gt 0 ]; do
		case $1 in
		--lab) takes_value "$@" && LAB=$2 && shift ;;
		--pods) takes_value "$@" && PODS=$2 && shift ;;
		--mtu) takes_value "$@" && MTU=$2 && shift ;;
		--local-mtu) takes_value "$@" && LOCAL_MTU=$2 && shift ;;
		--cc) takes_value "$@" && CC=$2 && shift ;;
		--keeper) KEEPER=weft-keeper ;;
		--quiet) QUIET=1 ;;
		--ipv6) IPV6=1 ;;
		--underlay6) UNDERLAY6=1 ;;
		*) die "unknown option $1 (see --help)" ;;
		esac
		shift
	done
	local kinds
	case $topology in
	one-node) kinds=(weft) ;;
	two-nodes) kinds=(weft weft) ;;
	weft-afxdp) kinds=(weft weft) PORT_TYPE=afxdp ;;
	kernel-peer) kinds=(weft kernel) ;;
	kernel-nodes) kinds=(kernel kernel) ;;
	ovs-nodes) kinds=(ovs ovs) OVS=tap ;;
	ovs-tso) kinds=(ovs ovs) OVS=tso ;;
	ovs-afxdp) kinds=(ovs ovs) OVS=afxdp ;;
	plain-node) kinds=(plain) PODS=2 ;;
	*) die "unknown topology $topology; there are: $(topologies | awk '{ printf "%s ", $1 }')" ;;
	esac
	check_name
	[[ $PODS =~ ^(1?[0-9]?[0-9]|200)$ ]] || die "--pods takes 0 to 200"
	[[ $LOCAL_MTU =~ ^[0-9]*$ ]] || die "--local-mtu takes a number of bytes"
	[ -z "$IPV6$UNDERLAY6" ] || [ "$MTU" -ge 1350 ] || die "--mtu below 1350 leaves pods less than the 1280 that IPv6 needs"
	need_root
	need iproute2=ip procps=sysctl
	case ${kinds[*]} in *weft*)
		need nftables=nft
		need_binaries
		;;
	esac
	case ${kinds[*]} in *ovs*) need openvswitch-switch=ovs-vswitchd ethtool=ethtool ;; esac
	[ ! -e "$RUN/$LAB" ] || die "lab $LAB is up already (lab.sh down --lab $LAB)"

	# Whatever goes wrong from here on is cleaned up.
	trap 'say "lab.sh: failed, cleaning up"; down_lab "$LAB"' EXIT
	trap 'exit 130' INT TERM
	mkdir -p "$RUN/$LAB"
	echo "$topology" >"$RUN/$LAB/topology"
	make_nodes
	local n
	for n in "${!kinds[@]}"; do
		"${kinds[n]}_node" $((n + 1))
	done
	local pod
	for n in "${!kinds[@]}"; do
		for ((pod = 1; pod <= PODS; pod++)); do
			"${kinds[n]}_pod" $((n + 1)) "$pod"
		done
	done
	trap - EXIT INT TERM
	list_lab "$LAB"
}

check_name() { [[ $LAB =~ ^[a-z][a-z0-9-]{0,8}$ ]] || die "--lab takes up to 9 of a-z 0-9 -, a letter first"; }

ns_add() {
	ip netns add "$1"
	echo "$1" >>"$RUN/$LAB/namespaces"
	ip -n "$1" link set lo up
}

# Numbers of everything, in one place. N is a node's number, P a pod's.
node_ns() { echo "$LAB-n$1"; }
pod_ns() { echo "$LAB-n$1-pod$2"; }
underlay_ip() { if [ -n "$UNDERLAY6" ]; then echo "fd00:77::$1"; else echo "172.31.77.$1"; fi; }
pod_cidr() { echo "10.244.$1.0/24"; }
pod_cidr6() { echo "fd00:10:244:$1::/64"; }
vtep_mac() { echo "02:77:65:66:74:0$1"; }
overlay_mtu() { echo $((MTU - (${#UNDERLAY6} > 0 ? 70 : 50))); }
local_mtu() { echo "${LOCAL_MTU:-$(overlay_mtu)}"; }

make_nodes() {
	local n
	for n in "${!kinds[@]}"; do
		ns_add "$(node_ns $((n + 1)))"
		mkdir -p "$RUN/$LAB/n$((n + 1))"
		echo "${kinds[n]}${PORT_TYPE:+-$PORT_TYPE}" >"$RUN/$LAB/n$((n + 1))/kind"
	done
	if [ ${#kinds[@]} = 2 ]; then
		ip -n "$(node_ns 1)" link add eth0 mtu "$MTU" type veth peer name eth0 mtu "$MTU" netns "$(node_ns 2)"
	else
		# One node has an uplink that leads nowhere.
		ip -n "$(node_ns 1)" link add eth0 mtu "$MTU" type veth peer name uplink mtu "$MTU"
		ip -n "$(node_ns 1)" link set uplink up
	fi
	for n in "${!kinds[@]}"; do
		n=$((n + 1))
		ip -n "$(node_ns $n)" addr add "172.31.77.$n/24" dev eth0
		ip -n "$(node_ns $n)" addr add "fd00:77::$n/64" dev eth0 nodad
		ip -n "$(node_ns $n)" link set eth0 up
	done
}

# ---------------------------------------------------------------- weft nodes

weft_node() {
	local n=$1 dir=$RUN/$LAB/n$1 m
	mkdir -p "$dir/run" "$dir/state"
	{
		echo '[cluster]'
		echo "cidrs = [\"10.244.0.0/16\"${IPV6:+, \"fd00:10:244::/48\"}]"
		echo "vni = $VNI"
		echo "port = $VXLAN_PORT"
		for m in "${!kinds[@]}"; do
			m=$((m + 1))
			printf '\n[[node]]\nname = "n%s"\nunderlay = "%s"\nmac = "%s"\n' $m "$(underlay_ip $m)" "$(vtep_mac $m)"
			echo "pod_cidrs = [\"$(pod_cidr $m)\"${IPV6:+, \"$(pod_cidr6 $m)\"}]"
		done
	} >"$dir/cluster.toml"
	{
		echo "# Files, sockets and this node's name are given by flags: \`weftd --help\` lists what can be set here."
		echo "${LOCAL_MTU:+local_mtu = $LOCAL_MTU}"
	} >"$dir/weft.toml"
	network_conf >"$dir/cni.json"
	# `ip netns exec` becomes the daemon (or its keeper), so its process id is the daemon's.
	WEFT_UPLINK=${PORT_TYPE:-${WEFT_UPLINK:-socket}} setsid ip netns exec "$(node_ns "$n")" ${KEEPER:+"$BIN_DIR/$KEEPER"} "$BIN_DIR/weftd" \
		--config "$dir/weft.toml" --cluster "$dir/cluster.toml" --node "n$n" \
		--run-dir "$dir/run" --state-dir "$dir/state" --socket "$dir/run/weft.sock" \
		--cni-socket "$dir/run/cni.sock" ${WEFT_LOG_LEVEL:+--log-level "$WEFT_LOG_LEVEL"} \
		>>"$dir/log" 2>&1 </dev/null &
	echo "$! ${KEEPER:-weftd}" >>"$RUN/$LAB/pids"
	if ! wait_for 10 weft_ready "$dir" $! || ! kill -0 $! 2>/dev/null; then
		tail -n 20 "$dir/log" >&2
		die "weftd of n$n does not get ready; above is the end of $dir/log"
	fi
}

weft_ready() {
	kill -0 "$2" || return 0 # died: the check below sees it, there is nothing to wait for
	WEFT_SOCKET=$1/run/weft.sock "$BIN_DIR/weft" status -o json | grep -q '"ready": *true'
}

network_conf() {
	local type=''
	[ -z "$PORT_TYPE" ] || type=", \"portType\": \"$PORT_TYPE\""
	cat <<-EOF
		{"cniVersion": "1.0.0", "name": "lab", "type": "weft-cni",
		 "socket": "$dir/run/cni.sock", "queueDir": "$dir/state/cni-del"$type}
	EOF
}

weft_pod() {
	local n=$1 ns
	ns=$(pod_ns "$1" "$2")
	ns_add "$ns"
	cni ADD "$n" "$ns" >"$RUN/$LAB/n$n/$ns.result" || die "ADD of $ns: $(cat "$RUN/$LAB/n$n/$ns.result")"
	congestion "$ns"
}

# cni VERB NODE NAMESPACE: as a container runtime does.
cni() {
	CNI_COMMAND=$1 CNI_CONTAINERID=$3 CNI_NETNS=/run/netns/$3 CNI_IFNAME=eth0 CNI_PATH=$BIN_DIR \
		"$BIN_DIR/weft-cni" <"$RUN/$LAB/n$2/cni.json"
}

congestion() { [ -z "$CC" ] || in_ns "$1" sysctl -qw "net.ipv4.tcp_congestion_control=$CC"; }

# ---------------------------------------------------------------- down

down() {
	while [ $# -gt 0 ]; do
		case $1 in
		--lab) takes_value "$@" && LAB=$2 && shift ;;
		--quiet) QUIET=1 ;;
		*) die "unknown option $1 (see --help)" ;;
		esac
		shift
	done
	check_name
	need_root
	[ -n "$QUIET" ] || [ -e "$RUN/$LAB" ] || say "there is no lab $LAB (lab.sh list)"
	down_lab "$LAB"
}

# Works from what was recorded before it was made, so nothing escapes a failed `up`; never fails on what is missing.
down_lab() {
	local dir=$RUN/$1 pid name ns
	if [ -f "$dir/pids" ]; then
		while read -r pid name; do
			# Only if the number still means that program.
			if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$name" ]; then kill_pid "$pid"; fi
		done <"$dir/pids"
	fi
	# Programs that exec started and left would keep a namespace alive.
	if [ -f "$dir/namespaces" ]; then
		while read -r ns; do
			for pid in $(ip netns pids "$ns" 2>/dev/null); do kill_pid "$pid"; done
		done <"$dir/namespaces"
		while read -r ns; do ip netns del "$ns" 2>/dev/null || true; done <"$dir/namespaces"
	fi
	rm -rf "$dir"
	rmdir "$RUN" 2>/dev/null || true
}

# ---------------------------------------------------------------- exec, list

enter() {
	if [ "${1:-}" = --lab ]; then
		takes_value "$@" && LAB=$2
		shift 2
	fi
	[ $# -ge 2 ] || die "exec needs a node or pod, and a command (see --help)"
	local where=$1 node=${1%%/*}
	shift
	[ -e "$RUN/$LAB/$node" ] || die "lab $LAB has no node $node (lab.sh list)"
	[ -e "/run/netns/$LAB-${where/\//-}" ] || die "lab $LAB has no $where (lab.sh list)"
	export WEFT_SOCKET=$RUN/$LAB/$node/run/weft.sock PATH=$BIN_DIR:$PATH
	exec ip netns exec "$LAB-${where/\//-}" "$@"
}

list() {
	local dir any=''
	for dir in "$RUN"/*/; do
		[ -d "$dir" ] || continue
		any=1
		list_lab "$(basename "$dir")"
	done
	[ -n "$any" ] || say "no lab is up (lab.sh up two-nodes)"
}

list_lab() {
	local lab=$1 dir=$RUN/$1 ns where addresses last=''
	echo "lab $lab: $(cat "$dir/topology" 2>/dev/null)"
	[ -f "$dir/namespaces" ] || return 0
	while read -r ns; do
		where=${ns#"$lab"-}
		addresses=$(ip -n "$ns" -br addr show dev eth0 2>/dev/null | awk '{ for (i = 3; i <= NF; i++) if ($i !~ /^fe80/) printf "%s ", $i }')
		case $where in
		*-pod*) printf '  %-10s %s\n' "${where/-pod//pod}" "$addresses" && last=${addresses%%/*} ;;
		*) printf '  %-10s %s(%s)\n' "$where" "$addresses" "$(cat "$dir/$where/kind")" ;;
		esac
	done <"$dir/namespaces"
	[ -n "$QUIET" ] || hints "$lab" "$last"
}

# hints LAB [ADDRESS OF A POD]: what can be done with a lab of this kind.
hints() {
	local lab=$1 flag='' look=''
	[ "$lab" = weft ] || flag="--lab $lab "
	case $(cat "$RUN/$lab/n1/kind" 2>/dev/null) in
	weft*) look="weft show" ;;
	kernel) look="bridge link" ;;
	ovs) look="ovs-vsctl --db=unix:$RUN/$lab/n1/db.sock show" ;;
	esac
	echo "try: ${2:+scripts/lab.sh exec ${flag}n1/pod1 ping -c3 $2;  }${look:+scripts/lab.sh exec ${flag}n1 $look;  }scripts/lab.sh down${flag:+ --lab $lab}"
}

main "$@"
