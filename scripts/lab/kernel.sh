# Nodes of kernel bridge + VXLAN, as flannel sets them up; sourced by lab.sh.
# shellcheck shell=bash disable=SC2154

kernel_node() {
	local n=$1 ns mtu m
	ns=$(node_ns "$1")
	mtu=$(overlay_mtu)
	in_ns "$ns" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
	ip -n "$ns" link add cni0 mtu "$(local_mtu)" type bridge
	ip -n "$ns" addr add "10.244.$n.1/24" dev cni0
	[ -z "$IPV6" ] || ip -n "$ns" addr add "fd00:10:244:$n::1/64" dev cni0 nodad
	ip -n "$ns" link set cni0 up
	flannel_rules "$ns" "$n"
	[ ${#kinds[@]} = 2 ] || return 0
	ip -n "$ns" link add "flannel.$VNI" mtu "$mtu" address "$(vtep_mac "$n")" type vxlan id "$VNI" \
		local "$(underlay_ip "$n")" dev eth0 dstport "$VXLAN_PORT" nolearning
	ip -n "$ns" addr add "10.244.$n.0/32" dev "flannel.$VNI"
	[ -z "$IPV6" ] || ip -n "$ns" addr add "fd00:10:244:$n::/128" dev "flannel.$VNI" nodad
	ip -n "$ns" link set "flannel.$VNI" up
	m=$((3 - n))
	# Flannel's order: neighbour, forwarding entry, route.
	ip -n "$ns" neigh add "10.244.$m.0" lladdr "$(vtep_mac $m)" dev "flannel.$VNI" nud permanent
	bridge -n "$ns" fdb add "$(vtep_mac $m)" dev "flannel.$VNI" dst "$(underlay_ip $m)" self permanent
	ip -n "$ns" route add "10.244.$m.0/24" via "10.244.$m.0" dev "flannel.$VNI" onlink
	if [ -n "$IPV6" ]; then
		ip -n "$ns" -6 neigh add "fd00:10:244:$m::" lladdr "$(vtep_mac $m)" dev "flannel.$VNI" nud permanent
		ip -n "$ns" -6 route add "fd00:10:244:$m::/64" via "fd00:10:244:$m::" dev "flannel.$VNI" onlink
	fi
}

# What flannel's daemon adds on every node (chains FLANNEL-POSTRTG and FLANNEL-FWD).
flannel_rules() {
	local ns=$1 n=$2 family pods cluster none
	for family in ip ip6; do
		pods=10.244.$n.0/24 cluster=10.244.0.0/16 none=224.0.0.0/4
		[ $family = ip ] || { pods=fd00:10:244:$n::/64 cluster=fd00:10:244::/48 none=ff00::/8; }
		in_ns "$ns" nft -f - <<-EOF
			table $family flannel {
				chain postrtg {
					type nat hook postrouting priority srcnat
					meta mark & 0x4000 == 0x4000 return
					$family saddr $pods $family daddr $cluster return
					$family saddr $cluster $family daddr $pods return
					$family saddr != $cluster $family daddr $pods return
					$family saddr $cluster $family daddr != $none masquerade fully-random
					$family saddr != $cluster $family daddr $cluster masquerade fully-random
				}
				chain forward {
					type filter hook forward priority filter
					$family saddr $cluster accept
					$family daddr $cluster accept
				}
			}
		EOF
	done
}

kernel_pod() {
	local n=$1 p=$2 node ns mtu
	node=$(node_ns "$n") ns=$(pod_ns "$n" "$p") mtu=$(local_mtu)
	ns_add "$ns"
	ip -n "$node" link add "veth$p" mtu "$mtu" type veth peer name eth0 mtu "$mtu" netns "$ns"
	ip -n "$node" link set "veth$p" master cni0 up
	ip -n "$ns" addr add "10.244.$n.$((p + 1))/24" dev eth0
	[ -z "$IPV6" ] || ip -n "$ns" addr add "fd00:10:244:$n::$(printf %x $((p + 1)))/64" dev eth0 nodad
	ip -n "$ns" link set eth0 up
	ip -n "$ns" route add default via "10.244.$n.1" ${LOCAL_MTU:+mtu "$(overlay_mtu)"}
	[ -z "$IPV6" ] || ip -n "$ns" route add default via "fd00:10:244:$n::1" ${LOCAL_MTU:+mtu "$(overlay_mtu)"}
	congestion "$ns"
}
