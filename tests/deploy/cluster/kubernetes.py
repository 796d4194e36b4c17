"""A Kubernetes of one node, from a folder of programs (build.sh makes one), on a `Machine`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.cluster.machine import ADDRESS, Machine, machine

PROGRAMS = [
    *("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"),
    *("containerd", "containerd-shim-runc-v2", "ctr", "runc", "cni/bridge", "pause.tar"),
]
API = f"https://{ADDRESS}:6443"
ETCD = "http://127.0.0.1:2379"
SOCKET = "/run/containerd.sock"
TOKEN = "of-a-cluster-that-nobody-else-reaches"
NODE = "node"


def missing_programs(folder: Path) -> list[str]:
    return [name for name in PROGRAMS if not (folder / name).is_file()]


@contextmanager
def kubernetes(programs: Path, images: list[Path]) -> Iterator[tuple[Machine, Path]]:
    """The machine, and the configuration for kubectl there; the node has the images. Needs root.

    Nothing enforces NetworkPolicy on it, and there is no DNS.
    """
    folder = Path(tempfile.mkdtemp(prefix="kubernetes-"))  # short: paths of sockets have an end
    environ = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder)}
    try:
        with machine(folder, environ) as node:
            kubeconfig = _write_configuration(folder, programs)
            _start_containers(node, programs, images)
            _start_control_plane(node, kubeconfig)
            _start_node(node, kubeconfig)
            yield node, kubeconfig
    finally:
        _remove_control_groups()
        shutil.rmtree(folder)


def _write(path: Path, content: Any) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def _write_configuration(folder: Path, programs: Path) -> Path:
    _write(folder / "tokens.csv", f'{TOKEN},admin,admin,"system:masters"\n')
    subprocess.run(
        ["openssl", "genrsa", "-out", folder / "accounts.key", "2048"], check=True, capture_output=True
    )
    _write(folder / "containerd.toml", CONTAINERD.format(folder=folder, programs=programs))
    _write(folder / "cni/10-bridge.conflist", json.dumps(_network(folder)))
    _write(folder / "kubelet.yaml", KUBELET)
    _write(folder / "proxy.yaml", PROXY | {"clientConnection": {"kubeconfig": str(folder / "kubeconfig")}})
    return _write(
        folder / "kubeconfig",
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": NODE, "cluster": {"server": API, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": NODE, "context": {"cluster": NODE, "user": "admin"}}],
            "current-context": NODE,
        },
    )


CONTAINERD = """
version = 2
root = "{folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{programs}/cni"
    conf_dir = "{folder}/cni"
"""


def _network(folder: Path) -> dict[str, Any]:
    addresses = {
        "type": "host-local",
        "dataDir": str(folder / "addresses"),
        "ranges": [[{"subnet": "10.244.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {"type": "bridge", "bridge": "pods", "isGateway": True, "hairpinMode": True, "ipam": addresses}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


KUBELET = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "cgroupDriver": "cgroupfs",
    "enforceNodeAllocatable": [],
    "evictionHard": {"memory.available": "100Mi"},
    "failSwapOn": False,
    "imageGCHighThresholdPercent": 100,  # a disk that is full of others' files costs no image
    "maxOpenFiles": 8000,
    "oomScoreAdj": 0,
}
PROXY = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "hostnameOverride": NODE,
    "oomScoreAdj": 0,
    "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
}


def _start_containers(node: Machine, programs: Path, images: list[Path]) -> None:
    ctr = ("ctr", f"--address={SOCKET}", "--namespace=k8s.io")
    configuration = f"--config={node.folder}/containerd.toml"
    node.start("containerd", configuration, until=partial(node.run, *ctr, "version"))
    for image in [programs / "pause.tar", *images]:
        node.run(*ctr, "images", "import", str(image))


def _start_control_plane(node: Machine, kubeconfig: Path) -> None:
    folder, key = node.folder, f"{node.folder}/accounts.key"
    # Serving is all that etcd is asked for here: what it has written is gone when the test ends.
    node.start("etcd", f"--data-dir={folder}/etcd", until=partial(node.run, "curl", "-fsS", f"{ETCD}/health"))
    node.start(
        "kube-apiserver",
        f"--etcd-servers={ETCD}",
        f"--advertise-address={ADDRESS}",
        "--service-cluster-ip-range=10.96.0.0/16",
        f"--cert-dir={folder}/certificates",
        f"--token-auth-file={folder}/tokens.csv",
        "--anonymous-auth=false",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default",
        f"--service-account-signing-key-file={key}",
        f"--service-account-key-file={key}",
        "--kubelet-preferred-address-types=InternalIP",
        until=partial(node.run, "curl", "-fsSk", "-H", f"Authorization: Bearer {TOKEN}", f"{API}/readyz"),
    )
    for manager, port in (("kube-controller-manager", 10257), ("kube-scheduler", 10259)):
        accounts = [f"--service-account-private-key-file={key}"] if "controller" in manager else []
        node.start(
            manager,
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            f"--cert-dir={folder}/{manager}",
            *accounts,
            until=partial(node.run, "curl", "-fsSk", f"https://127.0.0.1:{port}/healthz"),
        )


def _start_node(node: Machine, kubeconfig: Path) -> None:
    node.start(
        "kubelet",
        f"--config={node.folder}/kubelet.yaml",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NODE}",
        f"--node-ip={ADDRESS}",
        f"--root-dir={node.folder}/kubelet",
        f"--cert-dir={node.folder}/certificates",
        f"--volume-plugin-dir={node.folder}/plugins",
        "--container-runtime=remote",
        f"--container-runtime-endpoint=unix://{SOCKET}",
        until=partial(node.run, "curl", "-fsS", "http://127.0.0.1:10248/healthz"),
    )
    node.start(
        "kube-proxy",
        f"--config={node.folder}/proxy.yaml",
        until=partial(node.run, "curl", "-fsS", "http://127.0.0.1:10256/healthz"),
    )


def _remove_control_groups() -> None:
    """The kubelet's, which are empty by now."""
    for pods in Path("/sys/fs/cgroup").glob("*/kubepods"):
        for folder, _, _ in os.walk(pods, topdown=False):
            Path(folder).rmdir()
