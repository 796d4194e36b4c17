#!/bin/sh
# Kubernetes 1.20.2 from Debian 12's source package, and what it runs with, into FOLDER/programs: ten minutes on two cores.
#   sh tests/deploy/cluster/build.sh FOLDER
# Needs gcc, make, rsync, dpkg-dev and 8 GB; installs nothing.
set -eu
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$folder"
mkdir -p lists/partial packages root programs/cni pause

cat > sources.list <<'SOURCES'
deb-src http://deb.debian.org/debian bookworm main
deb-src http://deb.debian.org/debian-security bookworm-security main
SOURCES
of_sources="-o Dir::Etc::SourceList=$folder/sources.list -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists=$folder/lists"
# shellcheck disable=SC2086
[ -d kubernetes ] || {
    apt-get $of_sources update
    apt-get $of_sources source --download-only kubernetes
    dpkg-source --no-check -x kubernetes_*.dsc kubernetes
}
(cd packages && apt-get download golang-1.19-go golang-1.19-src etcd-server containerd runc containernetworking-plugins)
for package in packages/*.deb; do dpkg -x "$package" root; done

export GOROOT="$folder/root/usr/lib/go-1.19" GO111MODULE=off GOFLAGS=
export PATH="$GOROOT/bin:$PATH" KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_TREE_STATE=clean
commands="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy"
make -C kubernetes WHAT="$(printf 'cmd/%s ' $commands)"
for command in $commands; do cp "kubernetes/_output/bin/$command" programs; done
cp root/usr/bin/etcd root/usr/bin/containerd root/usr/bin/containerd-shim-runc-v2 root/usr/bin/ctr root/usr/sbin/runc programs
cp root/usr/lib/cni/* programs/cni

# The image that holds a pod's network.
cd pause
gcc -Os -static -o pause ../kubernetes/build/pause/linux/pause.c
tar -cf layer.tar pause
layer=$(sha256sum layer.tar | cut -d ' ' -f 1)
cat > config.json <<CONFIG
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "config": {"Entrypoint": ["/pause"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}}
CONFIG
echo '[{"Config": "config.json", "RepoTags": ["localhost/pause:1"], "Layers": ["layer.tar"]}]' > manifest.json
tar -cf ../programs/pause.tar manifest.json config.json layer.tar
