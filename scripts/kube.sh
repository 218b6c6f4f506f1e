#!/usr/bin/env bash
# A real Kubernetes on weft: two nodes with their own kubelet and containerd, each in namespaces of this machine. Builds
# what is needed (Kubernetes from Go modules: about 8 minutes the first time), takes everything down at the end, also after
# a failure or an interrupt, and says PASSED or FAILED last.
#
# usage: kube.sh [options]          the reference cnitool, checks, pod start beside flannel's, Kubernetes' own e2e cases: about 5 minutes
#        kube.sh chaos [options]    kills and upgrades of weftd on both nodes, none of which Kubernetes may notice
#   --quick        no comparison with flannel
#   --skip-e2e     without Kubernetes' own e2e cases
#   --rounds N     rounds of 40 pods on each network (3); chaos: kills, and as many upgrades (20)
#   --json FILE    chaos: writes [{"event","rounds","node_transitions","endpointslice_events","status_failed",…}]
#   --self-test    chaos: leaves a node without a daemon instead; passes if that is noticed
#   --keep         leaves the cluster on weft running (tests/kube/cluster.sh down ends it)
#
# Needs root, Rust, and Go 1.26 or newer. WEFT_BIN_DIR says where weft's binaries are, else they are built; BIN and IMG where
# Kubernetes' binaries and images are kept (/tmp/cbin, /tmp/cimg), OUT where e2e's report goes (/tmp/e2e).

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

CHAOS='' QUICK='' E2E=1 ROUNDS='' KEEP=''
CHAOS_ARGS=()
[ "${1:-}" != chaos ] || { CHAOS=1 && shift; }
while [ $# -gt 0 ]; do
	case $CHAOS:$1 in
	*:-h | *:--help) usage_of "$0" && exit ;;
	*:--rounds) takes_value "$@" && ROUNDS=$2 && shift ;;
	*:--keep) KEEP=1 ;;
	:--quick) QUICK=1 ;;
	:--skip-e2e) E2E='' ;;
	1:--json) takes_value "$@" && CHAOS_ARGS+=(--json "$(realpath -m "$2")") && shift ;;
	1:--self-test) CHAOS_ARGS+=(--self-test) ;;
	*) die "unknown argument $1 (see --help)" ;;
	esac
	shift
done
[[ ${ROUNDS:=$((CHAOS ? 20 : 3))} =~ ^[1-9][0-9]{0,3}$ ]] || die "--rounds takes 1 to 9999"

KUBE=$ROOT/tests/kube
export BIN=${BIN:-/tmp/cbin} IMG=${IMG:-/tmp/cimg} OUT=${OUT:-/tmp/e2e} CLUSTER_DIR=${CLUSTER_DIR:-/tmp/cl}

main() {
	need_root
	command -v go >/dev/null || die "needs Go 1.26 or newer (https://go.dev/dl); weft itself does not"
	need debootstrap=debootstrap busybox-static=/bin/busybox runc=runc iptables=iptables nftables=nft conntrack=conntrack \
		ipset=ipset openssl=openssl jq=jq bc=bc gcc=gcc libc6-dev=/usr/include/stdio.h python3=python3 procps=pgrep util-linux=nsenter
	[ ! -e "$CLUSTER_DIR" ] || die "a cluster is in $CLUSTER_DIR already ($KUBE/cluster.sh down ends it)"
	WORK=$(mktemp -d)
	RUNNING=''
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP

	# The cnitool case is a test of cargo's.
	[ -n "$CHAOS" ] || need_build
	[ -n "${WEFT_BIN_DIR:-}" ] || WEFT_BUILD=1
	need_binaries
	export WEFT_BIN_DIR=$BIN_DIR
	step "Kubernetes' binaries in $BIN, images in $IMG"
	run "$KUBE/build.sh" "$BIN" >"$WORK/build"
	run "$KUBE/images.sh" "$BIN" "$IMG" >"$WORK/images"
	if [ -n "$CHAOS" ]; then chaos; else whole; fi
}

chaos() {
	step "weft: a cluster of two nodes"
	run "$KUBE/cluster.sh" up weft 2
	step "Kills and upgrades"
	run "$KUBE/chaos.sh" --rounds "$ROUNDS" ${CHAOS_ARGS+"${CHAOS_ARGS[@]}"}
}

whole() {
	local flannel weft
	step "The reference cnitool, alone and chained with tuning and portmap"
	run env CNITOOL="$BIN/cnitool" CNI_PLUGINS="$BIN/cni" \
		cargo test --manifest-path "$ROOT/Cargo.toml" --locked -p weft-tests --test cnitool reference_cnitool
	if [ -z "$QUICK" ]; then
		step "flannel: $ROUNDS rounds of 40 pods"
		run "$KUBE/cluster.sh" up flannel 2
		pods_ready
		flannel=$(median <"$WORK/times")
		run "$KUBE/cluster.sh" down
	fi
	step "weft: a cluster of two nodes"
	run "$KUBE/cluster.sh" up weft 2
	run "$KUBE/cluster.sh" nodes
	step "Checks"
	run "$KUBE/checks.sh"
	if [ -z "$QUICK" ]; then
		step "weft: $ROUNDS rounds of 40 pods"
		pods_ready
		weft=$(median <"$WORK/times")
	fi
	if [ -n "$E2E" ]; then
		step "Kubernetes' own e2e cases: Networking Granular Checks: Pods"
		run "$KUBE/e2e.sh" granular 'Networking Granular Checks: Pods.*NodeConformance'
		# Without a case that fits, ginkgo says SUCCESS, too.
		grep -qaE '^SUCCESS! -- 4 Passed \| 0 Failed' "$OUT/granular.log" || die "not all 4 e2e cases passed: see $OUT/granular.log"
	fi
	step "What weftd logged"
	! grep -HE ' (WARN|ERROR) |panicked' "$CLUSTER_DIR"/log/n?-weftd.log || die "weftd complained"
	# Last: on a busy machine it may be the only thing that fails.
	[ -n "$QUICK" ] || compare "$weft" "$flannel"
}

# pods_ready: times of ROUNDS times 40 pods, in seconds, to $WORK/times
pods_ready() {
	local round
	: >"$WORK/times"
	for ((round = 0; round < ROUNDS; round++)); do
		run "$KUBE/pods.sh" 40 >"$WORK/round"
		cat "$WORK/round"
		sed -n 's/^all .* ready after \([0-9.]*\) s/\1/p' "$WORK/round" >>"$WORK/times"
	done
}

compare() {
	say "40 pods Ready (median): weft $1 s, flannel $2 s, ratio $(echo "scale=2; $1 / $2" | bc) (at most 1.10)"
	[ "$(echo "$1 <= $2 * 1.1" | bc)" = 1 ] || die "pods start slower than on flannel"
}

# run COMMAND...: in the background, because bash minds a signal only between commands and in a wait
run() {
	"$@" &
	RUNNING=$!
	wait "$RUNNING" || { local code=$? && RUNNING='' && return "$code"; }
	RUNNING=''
}

finish() {
	local code=$?
	trap '' INT TERM HUP
	if [ -n "$RUNNING" ]; then
		# What it waits for as well: it minds a signal only then.
		kill "$RUNNING" $(pgrep -P "$RUNNING") 2>/dev/null || true
		kill_pid "$RUNNING"
	fi
	if [ $code != 0 ] && [ -d "$CLUSTER_DIR/log" ]; then
		mkdir -p "$OUT"
		cp "$CLUSTER_DIR"/log/*-weftd.log "$OUT" 2>/dev/null && say "weftd's logs are in $OUT"
	fi
	if [ -n "$KEEP" ] && [ $code = 0 ]; then
		say "the cluster stays: $KUBE/cluster.sh kubectl get pods -A; $KUBE/cluster.sh down"
	else
		"$KUBE/cluster.sh" down || code=1
	fi
	rm -rf "$WORK"
	if [ $code = 0 ]; then step PASSED; else step "FAILED (exit code $code)"; fi
	exit $code
}

main
