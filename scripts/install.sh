#!/usr/bin/env bash
# Installs weft on this machine: weftd, weft-keeper (for machines without systemd), weft and weft-cni, the systemd unit,
# a commented configuration, and the files that keep network managers away from weft0. Starts nothing; says what to do
# next.
#
# usage: install.sh [--prefix DIR] [--root DIR]
#        install.sh --uninstall [--keep-state] [--keep-ports] [--prefix DIR] [--root DIR]
#   --prefix DIR   where the binaries go, in DIR/bin (default: /usr/local)
#   --root DIR     install below DIR, for images and packages; nothing running is touched
#   --uninstall    remove all that was installed and all that weftd made: links, routes, nft table, sysctls, state.
#                  A configuration that was edited stays, and is named.
#   --keep-state   leave /var/lib/weft
#   --keep-ports   leave pods their devices and addresses, and /var/lib/weft: a weftd that is installed anew serves them again

set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PREFIX=/usr/local TARGET='' UNINSTALL='' KEEP_STATE='' KEEP_PORTS=''
while [ $# -gt 0 ]; do
	case $1 in
	--prefix) takes_value "$@" && PREFIX=$2 && shift ;;
	--root) takes_value "$@" && TARGET=$2 && shift ;;
	--uninstall) UNINSTALL=1 ;;
	--keep-state) KEEP_STATE=1 ;;
	--keep-ports) KEEP_STATE=1 KEEP_PORTS=--keep-ports ;;
	-h | --help) usage_of "$0" && exit ;;
	*) die "unknown argument $1 (see --help)" ;;
	esac
	shift
done
[[ $PREFIX = /* ]] || die "--prefix takes an absolute path"
PREFIX=${PREFIX%/} TARGET=${TARGET%/}
[ -n "$TARGET" ] || need_root

# What was installed, a line each: `file SHA256 PATH`, `config SHA256 PATH`, `dir PATH` (made by us), parents first.
MANIFEST=$PREFIX/share/weft/manifest

main() {
	if [ -n "$UNINSTALL" ]; then uninstall; else install_all; fi
}

# ---------------------------------------------------------------- install

install_all() {
	# Binaries that were built before the last change would be installed without a word.
	[ -n "${WEFT_BIN_DIR:-}" ] || WEFT_BUILD=${WEFT_BUILD:-1}
	need_binaries
	OLD=$(cat "$TARGET$MANIFEST" 2>/dev/null || true)
	NEW=''
	local binary
	for binary in weftd weft-keeper weft weft-cni; do
		put "$BIN_DIR/$binary" "$PREFIX/bin/$binary" 755
	done
	sed "s|^ExecStart=.*|ExecStart=$PREFIX/bin/weftd|" "$ROOT/deploy/weftd.service" >"$TMP/weftd.service"
	put "$TMP/weftd.service" /etc/systemd/system/weftd.service 644
	put "$ROOT/deploy/NetworkManager-weft.conf" /etc/NetworkManager/conf.d/weft.conf 644
	put "$ROOT/deploy/10-weft.network" /etc/systemd/network/10-weft.network 644
	put "$ROOT/deploy/10-weft.link" /etc/systemd/network/10-weft.link 644
	put "$ROOT/deploy/99-weft.rules" /etc/udev/rules.d/99-weft.rules 644
	put_config "$ROOT/deploy/weft.toml" /etc/weft/weft.toml
	make_dirs "$(dirname "$MANIFEST")"
	printf '%s' "$NEW" >"$TARGET$MANIFEST.new"
	mv "$TARGET$MANIFEST.new" "$TARGET$MANIFEST"
	[ -n "$TARGET" ] && return
	reload
	local start='systemctl enable --now weftd'
	[ -d /run/systemd/system ] || start='weft-keeper weftd   (no systemd runs here; it stays in the foreground)'
	cat <<-EOF
		Installed below $PREFIX. Next, as root:
		  1. say which nodes there are: /etc/weft/cluster.toml (kubectl get nodes -o json | weft cluster import);
		     one host alone: pod_cidrs in /etc/weft/weft.toml instead
		  2. weftd --check && $start
		  3. weft status && weft cni install --chain portmap   (without hostPorts: no --chain)
		Over a running weftd: weft upgrade
	EOF
}

# Notes a directory that is ours to remove: one that is made now, or that an earlier installation made.
make_dirs() {
	local dir=$1
	[ "$dir" = / ] && return
	make_dirs "$(dirname "$dir")"
	if [ ! -d "$TARGET$dir" ]; then
		mkdir "$TARGET$dir"
	elif ! grep -qxF "dir $dir" <<<"$OLD"; then
		return 0
	fi
	grep -qxF "dir $dir" <<<"$NEW" || NEW+="dir $dir"$'\n'
}

# put FILE PATH MODE: a new file takes the name, so that even a running binary can be replaced.
put() {
	make_dirs "$(dirname "$2")"
	cp "$1" "$TARGET$2.new"
	chmod "$3" "$TARGET$2.new"
	mv "$TARGET$2.new" "$TARGET$2"
	NEW+="file $(sum "$TARGET$2") $2"$'\n'
}

# The configuration is the operator's once it was edited.
put_config() {
	if [ -e "$TARGET$2" ] && ! grep -qxF "config $(sum "$TARGET$2") $2" <<<"$OLD" && ! cmp -s "$1" "$TARGET$2"; then
		say "left as it is: $2 (edited; the new one is $ROOT/deploy/weft.toml)"
		# Recorded as it was delivered, so that uninstalling sees that it was edited.
		make_dirs "$(dirname "$2")"
		NEW+="config $(sum "$1") $2"$'\n'
		return
	fi
	put "$1" "$2" 644
	NEW=${NEW%file *}
	NEW+="config $(sum "$TARGET$2") $2"$'\n'
}

sum() { sha256sum "$1" | cut -d' ' -f1; }

# ---------------------------------------------------------------- uninstall

uninstall() {
	[ -f "$TARGET$MANIFEST" ] || die "nothing is installed below $TARGET$PREFIX (no $TARGET$MANIFEST)"
	[ -n "$TARGET" ] || stop_all
	disable_unit
	local kind hash path dirs=()
	while read -r kind hash path; do
		case $kind in
		dir) dirs+=("$hash") ;; # a directory has no hash
		file) rm -f "$TARGET$path" ;;
		config)
			if [ ! -e "$TARGET$path" ]; then
				continue
			elif [ "$(sum "$TARGET$path")" = "$hash" ]; then
				rm -f "$TARGET$path"
			else
				say "left: $path (it was edited)"
			fi
			;;
		esac
	done <"$TARGET$MANIFEST"
	rm -f "$TARGET$MANIFEST"
	local i
	for ((i = ${#dirs[@]} - 1; i >= 0; i--)); do
		if ! rmdir "$TARGET${dirs[i]}" 2>/dev/null && [ -d "$TARGET${dirs[i]}" ]; then
			say "left: ${dirs[i]} (not empty)"
		fi
	done
	[ -n "$TARGET" ] && return
	[ -n "$KEEP_PORTS" ] || rm -rf /run/weft
	if [ -n "$KEEP_STATE" ]; then say "left: /var/lib/weft"; else rm -rf /var/lib/weft; fi
	reload
	say "weft is uninstalled"
}

# What `systemctl enable` made; it works without a running systemd, too.
disable_unit() {
	local link
	for link in "$TARGET"/etc/systemd/system/*.{wants,requires}/weftd.service; do
		[ -L "$link" ] || continue
		rm -f "$link"
		rmdir --ignore-fail-on-non-empty "$(dirname "$link")"
	done
}

# Back to the machine as it was: first no new pods, then no daemon, then nothing of what it made.
stop_all() {
	local weft=$PREFIX/bin/weft weftd=$PREFIX/bin/weftd pid
	if [ -x "$weft" ]; then
		"$weft" cni uninstall || say "weft cni uninstall failed; see above"
	fi
	if [ -d /run/systemd/system ]; then
		systemctl disable -q --now weftd.service || true
	fi
	# One that was started by hand.
	pid=$("$weft" status -o json 2>/dev/null | grep -o '"pid": *[0-9]*' | grep -o '[0-9]*$') || true
	if [ -n "$pid" ]; then
		say "stopping weftd (process $pid)"
		kill_pid "$pid"
	fi
	if [ -x "$weftd" ]; then
		"$weftd" --purge ${KEEP_PORTS:+"$KEEP_PORTS"} || die "weftd --purge failed: see above; nothing was removed"
	fi
}

reload() {
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload
		if command -v networkctl >/dev/null; then networkctl reload 2>/dev/null || true; fi
		if command -v nmcli >/dev/null; then nmcli general reload conf 2>/dev/null || true; fi
	fi
	if command -v udevadm >/dev/null; then udevadm control --reload 2>/dev/null || true; fi
}

TMP=$(mktemp -d)
trap 'rm -rf "$TMP"' EXIT
main
