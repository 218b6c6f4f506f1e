# Other userspace switches to compare with; sourced by lab.sh.
# shellcheck shell=bash disable=SC2154

# ---------------------------------------------------------------- Open vSwitch, its userspace datapath
#
# Set up as its manual says ("Open vSwitch without Kernel Support", "Connecting VMs Using Tunnels (Userspace)"): br-phy
# has the uplink and the node's address, br-int the pods and a VXLAN port that learns. Pods of all nodes share a subnet.

ovs_vsctl() {
	local dir=$1
	shift
	ovs-vsctl --db="unix:$dir/db.sock" --timeout=20 "$@"
}

ovs_node() {
	local n=$1 ns dir=$RUN/$LAB/n$1 uplink=''
	ns=$(node_ns "$n")
	mkdir -p "$dir/run"
	ovsdb-tool create "$dir/conf.db" /usr/share/openvswitch/vswitch.ovsschema
	ovs_start "$n" ovsdb-server "$dir/conf.db" --remote="punix:$dir/db.sock" --unixctl="$dir/run/db.ctl"
	wait_for 5 test -S "$dir/db.sock" || die "ovsdb-server of n$n does not start; see $dir/log"
	ovs_vsctl "$dir" --no-wait init
	[ "$OVS" != tso ] || ovs_vsctl "$dir" --no-wait set Open_vSwitch . other_config:userspace-tso-enable=true
	ovs_start "$n" ovs-vswitchd "unix:$dir/db.sock" --unixctl="$dir/run/vs.ctl"
	if [ "$OVS" = afxdp ]; then
		uplink=afxdp
		# A veth hands AF_XDP whole superframes and owed checksums otherwise.
		in_ns "$ns" ethtool -K eth0 tx off tso off gso off >/dev/null
	fi
	ip -n "$ns" addr flush dev eth0
	ovs_vsctl "$dir" add-br br-phy -- set bridge br-phy datapath_type=netdev \
		other_config:hwaddr="02:77:65:66:75:0$n" -- add-port br-phy eth0 \
		${uplink:+-- set interface eth0 type=$uplink}
	ip -n "$ns" addr add "172.31.77.$n/24" dev br-phy
	ip -n "$ns" link set br-phy up mtu "$MTU"
	ovs_vsctl "$dir" add-br br-int -- set bridge br-int datapath_type=netdev
	[ ${#kinds[@]} = 2 ] || return 0
	ovs_vsctl "$dir" add-port br-int vxlan0 -- set interface vxlan0 type=vxlan \
		options:remote_ip="172.31.77.$((3 - n))" options:key="$VNI" options:dst_port="$VXLAN_PORT"
}

# ovs_start NODE PROGRAM ARGUMENTS...: in the node's namespace, in the background.
ovs_start() {
	local n=$1 program=$2 dir=$RUN/$LAB/n$1
	shift 2
	OVS_RUNDIR=$dir/run setsid ip netns exec "$(node_ns "$n")" "$program" "$@" >>"$dir/log" 2>&1 </dev/null &
	echo "$! $program" >>"$RUN/$LAB/pids"
}

ovs_pod() {
	local n=$1 p=$2 node ns dir=$RUN/$LAB/n$1 port=$LAB$1$2
	node=$(node_ns "$n") ns=$(pod_ns "$n" "$p")
	ns_add "$ns"
	if [ "$OVS" = afxdp ]; then
		ip -n "$node" link add "$port" type veth peer name eth0 netns "$ns"
		in_ns "$ns" ethtool -K eth0 tx off tso off gso off >/dev/null
		ip -n "$node" link set "$port" up
		ovs_vsctl "$dir" add-port br-int "$port" -- set interface "$port" type=afxdp
	else
		ovs_vsctl "$dir" add-port br-int "$port" -- set interface "$port" type=tap
		ip -n "$node" link set "$port" netns "$ns"
		ip -n "$ns" link set "$port" name eth0
	fi
	# The same on every node, less than any device of the way needs.
	ip -n "$ns" link set eth0 mtu "$(overlay_mtu)" up
	ip -n "$ns" addr add "10.244.$n.$((p + 1))/16" dev eth0
	congestion "$ns"
}

# ---------------------------------------------------------------- the plainest switch

plain_node() { :; }

# With the second pod both TAPs are there, and the loop starts.
plain_pod() {
	local p=$2 ns tool=${WEFT_BENCH:-$BIN_DIR/weft-bench}
	ns=$(pod_ns 1 "$p")
	ns_add "$ns"
	[ "$p" = 2 ] || return 0
	[ -x "$tool" ] || die "needs weft-bench: WEFT_BENCH names it"
	setsid "$tool" plain-switch --between "$(pod_ns 1 1)" --and "$(pod_ns 1 2)" >>"$RUN/$LAB/n1/log" 2>&1 </dev/null &
	echo "$! weft-bench" >>"$RUN/$LAB/pids"
	for p in 1 2; do
		ns=$(pod_ns 1 "$p")
		wait_for 5 ip -n "$ns" link show eth0 || die "the plain switch does not start; see $RUN/$LAB/n1/log"
		ip -n "$ns" link set eth0 mtu "$(overlay_mtu)" up
		ip -n "$ns" addr add "10.244.1.$((p + 1))/24" dev eth0
		congestion "$ns"
	done
}
