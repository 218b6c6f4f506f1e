#!/usr/bin/env bash
# From nothing to pods on two nodes that talk through weft: installs what is missing, builds, makes two "nodes" with
# pods in network namespaces, wires the pods by the real CNI plugin, and measures them side by side with the kernel's
# bridge + veth and bridge + VXLAN, in turns. Cleans up after itself.
#
# usage: quickstart.sh [--keep] [--json FILE] [--rounds N] [--seconds N]
#   --keep        leave the lab running, to play with
#   --json FILE   write the medians there, too
#   --rounds N    rounds of measuring (default: 5)
#   --seconds N   length of one TCP measurement (default: 3)
# As root, on Debian or the like. WEFT_INSTALL_RUST=1 lets it install Rust where there is none.

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

KEEP='' JSON='' ROUNDS=5 SECONDS_EACH=3 ADDS=21
W=weftq K=weftk # the two labs: weft, and the kernel's own

main() {
	while [ $# -gt 0 ]; do
		case $1 in
		--keep) KEEP=1 ;;
		--json) takes_value "$@" && JSON=$2 && shift ;;
		--rounds) takes_value "$@" && ROUNDS=$2 && shift ;;
		--seconds) takes_value "$@" && SECONDS_EACH=$2 && shift ;;
		-h | --help) usage_of "$0" && exit ;;
		*) die "unknown argument $1 (see --help)" ;;
		esac
		shift
	done
	[[ $ROUNDS =~ ^[1-9][0-9]*$ ]] || die "--rounds takes a number"
	[[ $SECONDS_EACH =~ ^[1-9][0-9]*$ ]] || die "--seconds takes a number"
	need_root
	need iproute2=ip iperf3=iperf3 iputils-ping=ping jq=jq nftables=nft procps=sysctl
	WEFT_BUILD=${WEFT_BUILD:-1} need_binaries
	export WEFT_BUILD=0

	DIR=$(mktemp -d)
	trap cleanup EXIT
	trap 'exit 130' INT TERM
	make_labs
	check_reachable
	local round
	for ((round = 1; round <= ROUNDS; round++)); do
		measure_round "$round"
	done
	measure_adds
	report
}

cleanup() {
	local status=$?
	rm -rf "$DIR"
	"$ROOT/scripts/lab.sh" down --quiet --lab $K || true
	if [ -n "$KEEP" ] && [ $status = 0 ]; then
		step "The lab stays"
		"$ROOT/scripts/lab.sh" list >&2
		return
	fi
	"$ROOT/scripts/lab.sh" down --quiet --lab $W || true
}

make_labs() {
	CC=cubic
	modprobe -q tcp_bbr 2>/dev/null || true
	if grep -qw bbr /proc/sys/net/ipv4/tcp_available_congestion_control; then CC=bbr; fi
	step "Two weft nodes, two pods each, wired by weft-cni"
	"$ROOT/scripts/lab.sh" down --quiet --lab $W
	"$ROOT/scripts/lab.sh" up two-nodes --quiet --lab $W --ipv6 --cc "$CC" >&2
	step "Two nodes of kernel bridge + VXLAN, to compare with"
	"$ROOT/scripts/lab.sh" down --quiet --lab $K
	"$ROOT/scripts/lab.sh" up kernel-nodes --quiet --lab $K --ipv6 --cc "$CC" >&2
	local lab
	for lab in $W $K; do
		in_ns "$lab-n1-pod2" iperf3 -s -D
		in_ns "$lab-n2-pod1" iperf3 -s -D
	done
	# Both sides' pods must differ in nothing but what carries their packets.
	local mtus
	mtus=$(for lab in $W $K; do in_ns "$lab-n1-pod1" cat /sys/class/net/eth0/mtu; done | sort -u)
	[ "$(wc -l <<<"$mtus")" = 1 ] || die "pod MTUs differ: $mtus"
	POD_MTU=$mtus
}

# address LAB NODE POD [inet6]
address() { ip -n "$1-n$2-pod$3" -j addr show dev eth0 | jq -r --arg f "${4:-inet}" '[.[0].addr_info[] | select(.family == $f and .scope == "global")][0].local'; }

check_reachable() {
	step "Ping: within a node, across nodes, node to pods, IPv4 and IPv6"
	local family from to
	for family in inet inet6; do
		for to in "1 2" "2 1" "2 2"; do
			# shellcheck disable=SC2086
			to=$(address $W $to $family)
			for from in n1-pod1 n1; do
				# The first packets may wait for neighbours.
				wait_for 5 in_ns $W-$from ping -c1 -W1 "$to" || die "$from cannot reach $to"
				in_ns $W-$from ping -q -c5 -i0.05 -W1 "$to" >"$DIR/ping" || { cat "$DIR/ping" >&2; die "$from loses packets to $to"; }
				say "  $from -> $to: $(tail -n1 "$DIR/ping")"
			done
		done
	done
}

# tcp LAB NODE POD: Gbit/s from n1/pod1 to that pod.
tcp() {
	local out=$DIR/iperf.json
	in_ns "$1-n1-pod1" iperf3 -c "$(address "$1" "$2" "$3")" -t "$SECONDS_EACH" -C "$CC" -J >"$out" 2>&1 ||
		die "iperf3: $(jq -r '.error // .' "$out" 2>/dev/null || cat "$out")"
	jq '.end.sum_received.bits_per_second / 1e7 | round / 100' "$out"
}

# rtt LAB NODE POD: microseconds, median of 200 pings.
rtt() {
	in_ns "$1-n1-pod1" ping -n -c 200 -i 0.005 "$(address "$1" "$2" "$3")" |
		sed -n 's/.*time=\([0-9.]*\) ms/\1/p' | awk '{ print $1 * 1000 }' | median
}

# In turns, so that whatever else the machine does hits both sides alike; the side that goes first alternates.
measure_round() {
	local labs="$W $K" lab
	[ $(($1 % 2)) = 1 ] || labs="$K $W"
	for lab in $labs; do
		tcp "$lab" 1 2 >>"$DIR/$lab.same.tcp"
		rtt "$lab" 1 2 >>"$DIR/$lab.same.rtt"
	done
	for lab in $labs; do
		tcp "$lab" 2 1 >>"$DIR/$lab.across.tcp"
		rtt "$lab" 2 1 >>"$DIR/$lab.across.rtt"
	done
	say "  round $1/$ROUNDS, TCP Gbit/s: same node $(tail -n1 "$DIR/$W.same.tcp") (kernel $(tail -n1 "$DIR/$K.same.tcp"))," \
		"across nodes $(tail -n1 "$DIR/$W.across.tcp") (kernel $(tail -n1 "$DIR/$K.across.tcp"))"
}

# time_adds COUNT PREFIX PLUGIN CONFIG OUT: milliseconds of each ADD into OUT, the plugin's whole process; then DEL.
time_adds() {
	local count=$1 prefix=$2 plugin=$3 config=$4 out=$5 i t0 t1
	export CNI_IFNAME=eth0 CNI_PATH
	for ((i = 1; i <= count; i++)); do
		export CNI_COMMAND=ADD CNI_CONTAINERID=$prefix$i CNI_NETNS=/run/netns/$prefix$i
		t0=${EPOCHREALTIME/[.,]/}
		"$plugin" <"$config" >"$out.result" || { cat "$out.result" >&2; return 1; }
		t1=${EPOCHREALTIME/[.,]/}
		echo "$(((t1 - t0) / 1000)).$(printf %03d $(((t1 - t0) % 1000)))" >>"$out"
	done
	for ((i = 1; i <= count; i++)); do
		export CNI_COMMAND=DEL CNI_CONTAINERID=$prefix$i CNI_NETNS=/run/netns/$prefix$i
		"$plugin" <"$config" >/dev/null || return 1
	done
}

measure_adds() {
	step "CNI ADD, $ADDS times"
	local i plugins=/usr/lib/cni
	for ((i = 1; i <= ADDS; i++)); do
		ip netns add "$W-add$i"
		echo "$W-add$i" >>"/run/weft-lab/$W/namespaces"
	done
	(CNI_PATH=$BIN_DIR time_adds "$ADDS" "$W-add" "$BIN_DIR/weft-cni" "/run/weft-lab/$W/n1/cni.json" "$DIR/weft.add")
	# The kernel's counterpart, where its plugins are installed.
	if [ -x $plugins/bridge ] && [ -x $plugins/host-local ]; then
		cat >"$DIR/bridge.json" <<-EOF
			{"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "bench0", "isGateway": true,
			 "ipam": {"type": "host-local", "subnet": "10.99.0.0/24", "dataDir": "$DIR/host-local",
			          "routes": [{"dst": "0.0.0.0/0"}]}}
		EOF
		export -f time_adds
		in_ns $K-n1 env CNI_PATH=$plugins bash -c 'time_adds "$@"' - "$ADDS" "$W-add" $plugins/bridge "$DIR/bridge.json" \
			"$DIR/bridge.add" || rm -f "$DIR/bridge.add"
	fi
	for ((i = 1; i <= ADDS; i++)); do ip netns del "$W-add$i"; done
}

# mid FILE: its median, null if it was not measured.
mid() { if [ -s "$DIR/$1" ]; then median <"$DIR/$1"; else echo null; fi; }

report() {
	jq -n \
		--argjson same "$(mid $W.same.tcp)" --argjson bridge "$(mid $K.same.tcp)" \
		--argjson across "$(mid $W.across.tcp)" --argjson vxlan "$(mid $K.across.tcp)" \
		--argjson same_rtt "$(mid $W.same.rtt)" --argjson bridge_rtt "$(mid $K.same.rtt)" \
		--argjson across_rtt "$(mid $W.across.rtt)" --argjson vxlan_rtt "$(mid $K.across.rtt)" \
		--argjson add "$(mid weft.add)" --argjson bridge_add "$(mid bridge.add)" \
		--argjson rounds "$ROUNDS" --argjson mtu "$POD_MTU" --arg cc "$CC" --arg kernel "$(uname -r)" --argjson cpus "$(nproc)" '
		def ratio($a; $b): if $a and $b then $a / $b * 100 | round / 100 else null end;
		{ same_node_tcp_gbps: $same, kernel_bridge_tcp_gbps: $bridge,
		  across_nodes_tcp_gbps: $across, kernel_vxlan_tcp_gbps: $vxlan,
		  same_node_rtt_us: $same_rtt, across_nodes_rtt_us: $across_rtt, cni_add_ms: $add,
		  kernel_bridge_rtt_us: $bridge_rtt, kernel_vxlan_rtt_us: $vxlan_rtt, bridge_host_local_add_ms: $bridge_add,
		  same_node_tcp_ratio: ratio($same; $bridge), across_nodes_tcp_ratio: ratio($across; $vxlan),
		  rounds: $rounds, pod_mtu: $mtu, congestion_control: $cc, kernel: $kernel, cpus: $cpus }' >"$DIR/result.json"
	step "Medians of $ROUNDS rounds, pod MTU $POD_MTU, TCP with $CC, Linux $(uname -r), $(nproc) CPUs"
	jq -r '
		def row($name; $weft; $kernel): [$name, ($weft // "-"), ($kernel // "-"),
			(if $weft and $kernel then $weft / $kernel * 100 | round / 100 else "-" end)] | @tsv;
		(["", "weft", "kernel", "ratio"] | @tsv),
		row("same node, TCP Gbit/s"; .same_node_tcp_gbps; .kernel_bridge_tcp_gbps),
		row("across nodes, TCP Gbit/s"; .across_nodes_tcp_gbps; .kernel_vxlan_tcp_gbps),
		row("same node, ping µs"; .same_node_rtt_us; .kernel_bridge_rtt_us),
		row("across nodes, ping µs"; .across_nodes_rtt_us; .kernel_vxlan_rtt_us),
		row("CNI ADD, ms"; .cni_add_ms; .bridge_host_local_add_ms)' "$DIR/result.json" |
		awk -F'\t' '{ printf "%-28s %10s %10s %8s\n", $1, $2, $3, $4 }'
	echo "kernel: bridge + veth, bridge + VXLAN set up as flannel does, CNI plugins bridge + host-local"
	if [ -n "$JSON" ]; then
		cp "$DIR/result.json" "$JSON"
		say "written: $JSON"
	fi
}

main "$@"
