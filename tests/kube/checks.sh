#!/usr/bin/env bash
# What a cluster must do on weft: DNS over UDP and TCP from both nodes, probes, exec, logs, 40 pods that leave nothing. Needs a cluster that is up.
set -euo pipefail
here=$(dirname "$(realpath "$0")"); k() { "$here/cluster.sh" kubectl "$@"; }
image=registry.k8s.io/e2e-test-images/agnhost:2.63.0
fail() { echo "FAILED: $*"; exit 1; }
ports() { for n in n1 n2; do "$here/cluster.sh" node "$n" "$WEFT_BIN_DIR/weft" list-ports br0 | sed "s/^/$n /"; done; }
used() { for n in n1 n2; do "$here/cluster.sh" node "$n" "$WEFT_BIN_DIR/weft" -o json status | jq -c '[.pools[].used]'; done; }

for n in n1 n2; do
  k apply -f - >/dev/null <<Y
{"apiVersion":"v1","kind":"Pod","metadata":{"name":"probe-$n"},"spec":{"nodeName":"$n","containers":[{"name":"c","image":"$image","args":["netexec","--http-port=8080"],
"readinessProbe":{"httpGet":{"path":"/healthz","port":8080},"periodSeconds":1},"livenessProbe":{"tcpSocket":{"port":8080},"periodSeconds":2}}]}}
Y
done
k wait --for=condition=Ready pod/probe-n1 pod/probe-n2 --timeout=60s >/dev/null || fail "pods with probes are not Ready"
for n in n1 n2; do
  for proto in "" "+tcp"; do
    out=$(k exec "probe-$n" -- dig +short +time=2 +tries=2 $proto kubernetes.default.svc.cluster.local) || fail "exec on $n"
    [ "$out" = 10.96.0.1 ] || fail "kubernetes.default from $n by ${proto:-UDP}: '$out'"
  done
  k logs "probe-$n" | grep -q . || fail "no logs from $n"
done
one=$(k get pod probe-n1 -o 'jsonpath={.status.podIP}') two=$(k get pod probe-n2 -o 'jsonpath={.status.podIP}')
[ "$(k exec probe-n1 -- curl -s --max-time 5 "http://$two:8080/clientip" | cut -d: -f1)" = "$one" ] || fail "n1 to n2 is translated or dead"
[ "$(k exec probe-n2 -- curl -s --max-time 5 "http://$one:8080/clientip" | cut -d: -f1)" = "$two" ] || fail "n2 to n1 is translated or dead"
[ "$(k get pods -o 'jsonpath={.items[*].status.containerStatuses[*].restartCount}')" = "0 0" ] || fail "a liveness probe failed"
echo "ok: probes, exec, logs, DNS by UDP and TCP, pod to pod without NAT, on both nodes"

before="$(ports) $(used)"
"$here/pods.sh" 40
for _ in $(seq 40); do [ "$(ports) $(used)" = "$before" ] && break; sleep 0.5; done
[ "$(ports) $(used)" = "$before" ] || fail "40 pods left something: $(ports | diff - <(echo "$before") || true)"
for n in n1 n2; do
  left=$("$here/cluster.sh" node "$n" sh -c 'ls /run/netns | wc -l'); pods=$(k get pods -A --field-selector "spec.nodeName=$n" --no-headers | wc -l)
  [ "$left" -le "$pods" ] || fail "$n: $left namespaces for $pods pods"
done
echo "ok: 40 pods came, went and left nothing"
k delete pod probe-n1 probe-n2 --wait=true >/dev/null
