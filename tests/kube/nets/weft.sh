# shellcheck shell=bash disable=SC2154
# weft: one weftd per node under weft-keeper, weft-cni and portmap the only plugins in the conflist, the cluster file written from the API's nodes, kube-proxy with --masquerade-all
: "${WEFT_BIN_DIR:?the directory that holds weftd, weft-keeper, weft and weft-cni}"
net_cluster() { kubectl create -f - >/dev/null <<Y
{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"proxy"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},"subjects":[{"kind":"User","name":"system:kube-proxy"}]}
Y
}
net_node() { # NODE ADDRESS POD-CIDR
  local x; for x in "$L/$1"/opt/cni/bin/*; do case ${x##*/} in portmap|loopback) ;; *) rm -f "$x";; esac; done
  kubectl get nodes -o json | "$WEFT_BIN_DIR/weft" cluster import -o "$L/$1/etc/weft/cluster.toml"
  : > "$L/$1/etc/weft/weft.toml"
  daemon "$1" weftd "$WEFT_BIN_DIR/weft-keeper" "$WEFT_BIN_DIR/weftd" --node "$1" --log-level info
  in_ns "$1" "$WEFT_BIN_DIR/weft" cni install --bin-dir /opt/cni/bin --conf-dir /etc/cni/net.d --plugin "$WEFT_BIN_DIR/weft-cni" --chain portmap
  in_ns "$1" sysctl -qw net.bridge.bridge-nf-call-iptables=1 || true
  kube_proxy "$1" --masquerade-all
}
