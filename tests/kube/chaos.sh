#!/usr/bin/env bash
# Kills and upgrades weftd on a running cluster, and shows what Kubernetes noticed of it.
#
# usage: chaos.sh [--rounds N] [--json FILE] | --self-test
#   --rounds N    kills, and as many upgrades, half of them on each of n1 and n2 (20)
#   --json FILE   the result as an array of objects, one for each event
#   --self-test   leaves a node without a daemon for 30 s instead: passes if the checks here see that
#
# Needs `cluster.sh up weft 2`; weftd runs under weft-keeper there. Kubelet asks its runtime, and that the plugin, every
# five seconds whether the network is ready (STATUS); the same is asked here beside it, and at once after each event.
# Half of the events come just before a pod is made on that node, half as the pod's namespace appears, that is, when its
# ADD begins; the node's pod of the round before is deleted meanwhile. In all this time no node may leave Ready, no
# EndpointSlice may change, every STATUS must succeed, every pod must get Ready and go again and leave nothing, and two
# TCP connections between pods of both nodes must go on, one each way.

set -euo pipefail
BIN=${BIN:-/tmp/cbin} L=${CLUSTER_DIR:-/tmp/cl}
: "${WEFT_BIN_DIR:?the directory that holds weft}"
IMAGE=registry.k8s.io/e2e-test-images/agnhost:2.63.0
NODES=(n1 n2)
ROUNDS=20
JSON=''
SELF_TEST=''
while [ $# -gt 0 ]; do
	case $1 in
	--rounds) ROUNDS=${2:?} && shift ;;
	--json) JSON=$(realpath -m "${2:?}") && shift ;;
	--self-test) SELF_TEST=1 && ROUNDS=1 ;;
	-h | --help) sed -n '2,/^$/{s/^# \{0,1\}//;p}' "$0" && exit ;;
	*) echo "chaos.sh: unknown argument $1 (see --help)" >&2 && exit 2 ;;
	esac
	shift
done
[[ $ROUNDS =~ ^[1-9][0-9]{0,3}$ ]] || { echo "chaos.sh: --rounds takes 1 to 9999" >&2 && exit 2; }
[ -f "$L/n2-weftd.dpid" ] || { echo "chaos.sh: no cluster on weft is up in $L" >&2 && exit 2; }

# Of this run: results of one phase, and the processes that watch it.
work=$(mktemp -d)
mkfifo "$work/never"
exec {never}<>"$work/never" # a read of it is a pause
watchers=()
cleanup() {
	local pid
	for pid in ${watchers+"${watchers[@]}"}; do kill "$pid" 2>/dev/null || true; done
	kubectl delete namespace chaos --ignore-not-found --wait=false >/dev/null 2>&1 || true
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# nsenter becomes the command, so that its process id is the command's.
kubectl() { nsenter -t "$(cat "$L/cp.pid")" -n -- "$BIN/kubectl" --kubeconfig "$L/admin.kubeconfig" "$@"; }
on() {
	local pid
	pid=$(cat "$L/$1.pid")
	shift
	nsenter -t "$pid" -m -n -u -- "$@"
}
weft() {
	local node=$1
	shift
	on "$node" "$WEFT_BIN_DIR/weft" "$@"
}
keeper() { cat "$L/$1-weftd.dpid"; }
daemon() { pgrep -n -P "$(keeper "$1")" -x weftd; }
now_ms() { date +%s%3N; }
# median and largest of the numbers on stdin, as two words
spread() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)], v[NR]; else print "null null" }'; }

# ---------------------------------------------------------------- what Kubernetes may not notice

# Every condition "Ready" with the time since when it holds.
ready_since() { kubectl get nodes -o json | jq -c '[.items[] | [.metadata.name, (.status.conditions[] | select(.type == "Ready") | .status, .lastTransitionTime)]]'; }
slices() { kubectl get endpointslices -A -o json | jq -c '[.items[].metadata | [.namespace, .name, .uid, .resourceVersion]] | sort'; }
# What the node's switch has: its ports and how many addresses are taken.
holdings() {
	local node
	for node in "${NODES[@]}"; do
		weft "$node" list-ports br0 | sed "s/^/$node /"
		weft "$node" -o json status | jq -c '[.pools[].used]'
		on "$node" find /var/lib/weft/cni-del -type f 2>/dev/null || true
	done
}

# One STATUS as the runtime calls it: a line of node, exit code, milliseconds and the answer.
status_once() {
	local node=$1 began code=0 answer
	began=$(now_ms)
	answer=$(jq -c '{cniVersion: "1.1.0", name} + .plugins[0]' "$L/$node/etc/cni/net.d/10-weft.conflist" |
		on "$node" env CNI_COMMAND=STATUS CNI_PATH=/opt/cni/bin /opt/cni/bin/weft-cni 2>&1) || code=$?
	echo "$node $code $(($(now_ms) - began)) $answer" >>"$work/status"
}
status_forever() {
	local node
	while sleep 5 && kill -0 $$; do
		for node in "${NODES[@]}"; do status_once "$node"; done
	done
}

watch_begin() {
	: >"$work/status"
	ready_since >"$work/nodes-before"
	slices >"$work/slices-before"
	kubectl get nodes --watch-only -o json >"$work/nodes-seen" 2>/dev/null &
	watchers+=($!)
	kubectl get endpointslices -A --watch-only -o json >"$work/slices-seen" 2>/dev/null &
	watchers+=($!)
	status_forever &
	watchers+=($!)
	sleep 2
}
watch_end() {
	local pid
	for pid in "${watchers[@]}"; do
		kill -0 "$pid" 2>/dev/null || fail "a watch ended early"
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	watchers=()
	ready_since >"$work/nodes-after"
	slices >"$work/slices-after"
}

# ---------------------------------------------------------------- load

prepare() {
	kubectl wait --for=delete namespace/chaos --timeout=120s >/dev/null 2>&1 || true # of a run before
	kubectl create namespace chaos >/dev/null
	until kubectl -n chaos get serviceaccount default >/dev/null 2>&1; do sleep 0.2; done
	kubectl apply -f - >/dev/null <<-Y
		apiVersion: v1
		kind: Service
		metadata: {name: steady, namespace: chaos}
		spec: {selector: {app: steady}, ports: [{port: 80, targetPort: 8080}]}
		---
		apiVersion: apps/v1
		kind: Deployment
		metadata: {name: steady, namespace: chaos}
		spec:
		  replicas: 4
		  selector: {matchLabels: {app: steady}}
		  template:
		    metadata: {labels: {app: steady}}
		    spec:
		      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: steady}}}]
		      containers:
		      - name: c
		        image: $IMAGE
		        args: [netexec, --http-port=8080]
		        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 2}
		        livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 2}
	Y
	long_pod server n1 '["iperf3", "-s"]'
	long_pod reversed-server n1 '["iperf3", "-s"]'
	kubectl -n chaos wait --for=condition=Ready pod/server pod/reversed-server --timeout=60s >/dev/null
	kubectl -n chaos rollout status deployment steady --timeout=120s >/dev/null
	long_pod client n2 "$(client_of server)"
	long_pod reversed-client n2 "$(client_of reversed-server -R)"
	kubectl -n chaos wait --for=condition=Ready pod/client pod/reversed-client --timeout=60s >/dev/null
	wait_until 30 connections_alive || fail "the long connections do not start"
	sleep 5
}
client_of() { # SERVER [OPTION]
	echo "[\"iperf3\", \"-c\", \"$(kubectl -n chaos get pod "$1" -o 'jsonpath={.status.podIP}')\", \"-t\", \"86400\", \"-b\", \"5M\", \"-i\", \"1\", \"--forceflush\"${2:+, \"$2\"}]"
}
long_pod() { # NAME NODE COMMAND
	kubectl apply -f - >/dev/null <<-Y
		{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "$1", "namespace": "chaos"}, "spec": {"nodeName": "$2", "restartPolicy": "Never",
		 "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "$IMAGE", "command": $3}]}}
	Y
}
# moved POD: whether the connection brought bytes in each of the last seconds; its client ends when it breaks.
moved() {
	[ "$(kubectl -n chaos get pod "$1" -o 'jsonpath={.status.phase}')" = Running ] || return 1
	kubectl -n chaos logs "$1" --tail=3 | awk '/ sec .*bits\/sec/ { n++; if ($5 == 0) bad = 1 } END { exit !(n == 3 && !bad) }'
}
connections_alive() { moved client && moved reversed-client; }
wait_until() { # SECONDS COMMAND...
	local end=$(($(now_ms) + $1 * 1000))
	shift
	until "$@"; do
		[ "$(now_ms)" -lt "$end" ] || return 1
		sleep 0.1
	done
}

# ---------------------------------------------------------------- events

failures=()
fail() {
	failures+=("$event: $*")
	if [ -n "$SELF_TEST" ]; then echo "noticed: $*"; else echo "FAILED: $event: $*"; fi
}

# Each takes the node and the process id of its daemon.
kube-kill() {
	kill -KILL "$2"
	status_once "$1"
	wait_until 10 another_daemon "$1" "$2" || fail "weftd of $1 is not started again"
}
another_daemon() {
	local pid
	pid=$(daemon "$1") && [ "$pid" != "$2" ] && weft "$1" status >/dev/null 2>&1
}
kube-upgrade() {
	local new
	new=$(weft "$1" -o json upgrade | jq .pid) || fail "weft upgrade on $1"
	status_once "$1"
	wait_until 10 gone "$2" || fail "the old weftd of $1 stays"
	[ "$(daemon "$1")" = "$new" ] || fail "$1 runs process $(daemon "$1"), not the one of the upgrade, $new"
}
# No daemon, and a keeper that does not start one, for longer than anyone waits.
kube-absent() {
	kill -STOP "$(keeper "$1")"
	kill -KILL "$2"
	sleep 30
	kill -CONT "$(keeper "$1")"
	wait_until 10 another_daemon "$1" "$2" || fail "weftd of $1 is not started again"
	kubectl wait --for=condition=Ready "node/$1" --timeout=60s >/dev/null || fail "$1 stays NotReady"
}
gone() { ! kill -0 "$1" 2>/dev/null; }

# The runtime makes a pod's namespace, then calls the plugin: looks every 2 ms, without a process of its own.
namespaces() { echo "$L/$1/run/netns"/*; }
another_namespace() { # NODE NAMESPACES
	local i one
	for ((i = 0; i < 10000; i++)); do
		for one in "$L/$1/run/netns"/*; do
			[[ " $2 " = *" $one "* ]] || return 0
		done
		read -rt 0.002 -u "$never" || true
	done
	return 1
}

# one_round NUMBER: the event on a node, and a pod that starts in it
one_round() {
	local round=$1 node=${NODES[$1 % 2]} pod=born-$1 old=${previous[${NODES[$1 % 2]}]:-} began pid maker before
	began=$(now_ms)
	pid=$(daemon "$node")
	before=$(namespaces "$node")
	one_pod "$pod" "$node" &
	maker=$!
	if [ $((round / 2 % 2)) = 0 ]; then
		delete_pod "$old"
		"$event" "$node" "$pid"
	else
		another_namespace "$node" "$before" || fail "no namespace for $pod"
		sleep "0.0$((RANDOM % 5))"
		"$event" "$node" "$pid"
		delete_pod "$old"
	fi
	wait "$maker" || fail "$pod is not made"
	if kubectl -n chaos wait --for=condition=Ready "pod/$pod" --timeout=60s >/dev/null; then
		echo $(($(now_ms) - began)) >>"$work/ready"
	else
		fail "$pod does not get Ready"
	fi
	if ! wait_until 15 connections_alive; then
		broken=$((broken + 1))
		fail "a TCP connection between pods broke"
	fi
	previous[$node]=$pod
	echo "$event $round of $ROUNDS on $node: $pod Ready after $(tail -n 1 "$work/ready") ms"
}
# Of the round before on the node, if there was one; its DEL comes while the daemon is busy with the event.
delete_pod() { [ -z "$1" ] || kubectl -n chaos delete pod "$1" --wait=false >/dev/null & }
one_pod() { long_pod "$1" "$2" '["/agnhost", "pause"]'; }

# phase EVENT: its rounds, and the verdict
phase() {
	event=$1
	declare -gA previous=()
	local held round transitions changes restarts calls failed spent
	failures_before=${#failures[@]}
	broken=0
	: >"$work/ready"
	held=$(holdings)
	watch_begin
	for ((round = 1; round <= ROUNDS; round++)); do
		one_round "$round"
		sleep "$((RANDOM % 5)).$((RANDOM % 10))" # events meet every moment between two STATUS calls
	done
	kubectl -n chaos delete pod ${previous[n1]+"${previous[n1]}"} ${previous[n2]+"${previous[n2]}"} --timeout=60s >/dev/null || fail "the last pods do not go"
	wait_until 30 no_born_pods || fail "pods stay: $(born_pods)"
	wait_until 30 same_holdings "$held" || fail "left behind: $(diff <(echo "$held") <(holdings) || true)"
	sleep 12 # two more rounds of kubelet's question
	watch_end

	transitions=$(jq -s --slurpfile before "$work/nodes-before" '[.[] | [.metadata.name, (.status.conditions[] | select(.type == "Ready") | .status, .lastTransitionTime)]
		| select(. as $seen | $before[0] | index([$seen]) | not)] | length' "$work/nodes-seen")
	if ! cmp -s "$work/nodes-before" "$work/nodes-after" || [ "$transitions" != 0 ]; then
		fail "a node left Ready: $(cat "$work/nodes-after"), $transitions events"
	fi
	changes=$(jq -s length "$work/slices-seen")
	if ! cmp -s "$work/slices-before" "$work/slices-after" || [ "$changes" != 0 ]; then
		fail "EndpointSlices changed: $changes events"
	fi
	calls=$(wc -l <"$work/status")
	failed=$(awk '$2 != 0' "$work/status" | wc -l)
	[ "$failed" = 0 ] || fail "$failed of $calls STATUS calls: $(awk '$2 != 0' "$work/status" | head -n 3)"
	restarts=$(kubectl -n chaos get pods -o json | jq '[.items[].status.containerStatuses[]?.restartCount] | add')
	[ "$restarts" = 0 ] || fail "containers were restarted $restarts times"
	kubectl -n chaos get events -o json | jq -r '.items[] | select(.reason == "FailedCreatePodSandBox" and (.involvedObject.name | startswith("born-"))) | "\(.involvedObject.name): \(.message)"' >"$work/again"
	sed "s/^/note: $event: /" "$work/again"
	kubectl -n chaos delete events --all >/dev/null
	read -r -a spent <<<"$(awk '{ print $3 }' "$work/status" | spread) $(spread <"$work/ready")"
	jq -n --arg event "$event" '{event: $event, rounds: $ARGS.positional[0], node_transitions: $ARGS.positional[1], endpointslice_events: $ARGS.positional[2],
		status_calls: $ARGS.positional[3], status_failed: $ARGS.positional[4], status_ms_p50: $ARGS.positional[5], status_ms_max: $ARGS.positional[6],
		pods_ready: $ARGS.positional[7], pod_ready_ms_p50: $ARGS.positional[8], pod_ready_ms_max: $ARGS.positional[9], sandboxes_tried_again: $ARGS.positional[10],
		containers_restarted: $ARGS.positional[11], connections_broken: $ARGS.positional[12], failures: $ARGS.positional[13]}' \
		--jsonargs "$ROUNDS" "$transitions" "$changes" "$calls" "$failed" "${spent[0]}" "${spent[1]}" "$(wc -l <"$work/ready")" \
		"${spent[2]}" "${spent[3]}" "$(wc -l <"$work/again")" "$restarts" "$broken" $((${#failures[@]} - failures_before)) >>"$work/result"
}
born_pods() { kubectl -n chaos get pods -o name | grep /born- || true; }
no_born_pods() { [ -z "$(born_pods)" ]; }
same_holdings() { [ "$(holdings)" = "$1" ]; }

event=preparation
prepare
if [ -n "$SELF_TEST" ]; then
	phase kube-absent
	for seen in "a node left Ready" "EndpointSlices changed" "STATUS calls"; do
		[[ ${failures[*]} = *"$seen"* ]] || { echo "FAILED: not seen: $seen" && exit 1; }
	done
	echo "ok: a node without a daemon was seen by each check"
	exit
fi
phase kube-kill
phase kube-upgrade
[ -z "$JSON" ] || jq -s . "$work/result" >"$JSON"
jq -rs '.[] | to_entries | map("\(.key)=\(.value)") | join(" ")' "$work/result"
if [ ${#failures[@]} != 0 ]; then
	printf 'FAILED: %s\n' "${failures[@]}"
	exit 1
fi
echo "ok: no node left Ready, no EndpointSlice changed, every STATUS succeeded, every pod started and left nothing, no connection broke"
