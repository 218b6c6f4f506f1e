#!/usr/bin/env bash
# A real Kubernetes on weft, and flannel beside it: builds what is needed, checks, runs Kubernetes' own e2e cases, compares pod start.
#   scripts/kube.sh [--quick] [--rounds N] [--skip-e2e] [--keep]
# --quick: no comparison with flannel. --rounds N: rounds of 40 pods on each network (3). --keep: leaves the cluster on weft running.
# Needs root, Go 1.26 or newer, and minutes: about 8 to build Kubernetes the first time, then about 10.
set -euo pipefail
root=$(dirname "$(dirname "$(realpath "$0")")")
rounds=3 quick="" keep="" e2e=1
while [ $# -gt 0 ]; do case $1 in
  --quick) quick=1;; --rounds) rounds=$2; shift;; --keep) keep=1;; --skip-e2e) e2e="";; -h|--help) sed -n 2,5p "$0"; exit 0;; *) echo "unknown option $1; see --help" >&2; exit 2;;
esac; shift; done
[ "$(id -u)" = 0 ] || { echo "kube.sh needs root" >&2; exit 1; }
command -v go >/dev/null || { echo "kube.sh needs Go 1.26 or newer; weft itself does not" >&2; exit 1; }
missing=""; for c in debootstrap runc iptables nft conntrack ipset openssl jq bc gcc python3; do command -v $c >/dev/null || missing=1; done
[ -x /bin/busybox ] || missing=1
[ -z "$missing" ] || { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q debootstrap busybox-static runc iptables nftables conntrack ipset openssl jq bc gcc libc6-dev python3 procps; } >/dev/null

"$root/scripts/build.sh"
export WEFT_BIN_DIR=${WEFT_BIN_DIR:-$root/target/weft} BIN=${BIN:-/tmp/cbin} IMG=${IMG:-/tmp/cimg}
kube=$root/tests/kube
"$kube/build.sh" "$BIN" >/dev/null && "$kube/images.sh" "$BIN" "$IMG" >/dev/null
trap '[ -n "$keep" ] || "$kube/cluster.sh" down' EXIT
ready() { sed -n 's/^all .* ready after \([0-9.]*\) s/\1/p'; }
median() { sort -n | awk '{a[NR]=$1} END{print a[int((NR+1)/2)]}'; }
times() { for _ in $(seq "$rounds"); do "$kube/pods.sh" 40 | tee /dev/stderr | ready; done; }

if [ -z "$quick" ]; then
  echo "== flannel: $rounds rounds of 40 pods"
  "$kube/cluster.sh" up flannel 2
  flannel=$(times | median)
  "$kube/cluster.sh" down
fi
echo "== weft: a cluster of two nodes"
"$kube/cluster.sh" up weft 2
"$kube/cluster.sh" nodes
"$kube/checks.sh"
if [ -z "$quick" ]; then
  echo "== weft: $rounds rounds of 40 pods"
  weft=$(times | median)
  echo "40 pods Ready: weft $weft s, flannel $flannel s, ratio $(echo "scale=2; $weft / $flannel" | bc) (at most 1.10)"
  [ "$(echo "$weft <= $flannel * 1.1" | bc)" = 1 ] || { echo "FAILED: pods start slower than on flannel"; exit 1; }
fi
if [ -n "$e2e" ]; then
  echo "== Kubernetes' own e2e cases: Networking Granular Checks: Pods"
  OUT=${OUT:-/tmp/e2e} "$kube/e2e.sh" granular 'Networking Granular Checks: Pods.*NodeConformance'
  grep -qaE '^(SUCCESS!|PASS)' "${OUT:-/tmp/e2e}/granular.log" || { echo "FAILED: see ${OUT:-/tmp/e2e}/granular.log"; exit 1; }
fi
for n in n1 n2; do
  if grep -hE ' (WARN|ERROR) |panicked' "${CLUSTER_DIR:-/tmp/cl}/log/$n-weftd.log"; then echo "FAILED: weftd on $n complained"; exit 1; fi
done
echo "all passed"
