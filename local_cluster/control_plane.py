"""The command lines of the control plane. Pure: what is started, when and where is for others to decide.

With the defaults it is what a test needs: etcd and an API server on loopback, without any namespace.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVICE_RANGE = "10.96.0.0/16"
POD_RANGE = "10.244.0.0/16"
API_PORT = 6443

AUDIT_POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "Metadata"}],
}
"""Every request, once, without bodies: enough to count who asked for what."""

WITHOUT = (
    "bootstrap-signer-controller",
    "certificatesigningrequest-approving-controller",
    "certificatesigningrequest-cleaner-controller",
    "certificatesigningrequest-signing-controller",
    "ephemeral-volume-controller",
    "node-ipam-controller",
    "persistentvolume-attach-detach-controller",
    "persistentvolume-expander-controller",
    "token-cleaner-controller",
    "ttl-controller",
    "validatingadmissionpolicy-status-controller",
)
"""Controllers that find nothing to do here: no disks to make, no cloud, no certificates to sign."""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """One control plane: its programs, its directory, its addresses."""

    programs: Mapping[str, Path]
    directory: Path
    address: str = "127.0.0.1"
    listen: str = "127.0.0.1"
    api_port: int = API_PORT
    etcd_port: int = 2379
    etcd_peer_port: int = 2380

    @property
    def url(self) -> str:
        """Where its programs find the API server."""
        return f"https://{self.address}:{self.api_port}"

    @property
    def tokens(self) -> Path:
        """The static token file."""
        return self.directory / "pki" / "tokens.csv"

    @property
    def signing_key(self) -> Path:
        """The private key for service-account tokens."""
        return self.directory / "pki" / "service-accounts.key"

    @property
    def authority(self) -> Path:
        """The certificate that verifies the API server, which makes it when it first starts."""
        return self.directory / "pki" / "apiserver" / "apiserver.crt"

    @property
    def audit_policy(self) -> Path:
        """The file for AUDIT_POLICY."""
        return self.directory / "pki" / "audit-policy.json"

    @property
    def audit_log(self) -> Path:
        """One JSON line per request to the API server."""
        return self.directory / "logs" / "audit.log"

    def kubeconfig(self, user: str) -> Path:
        """The file by which one of our own programs speaks to the API server."""
        return self.directory / "pki" / f"{user.replace(':', '-')}.kubeconfig"

    def etcd(self) -> list[str]:
        """The store. It lives no longer than the cluster, so nothing waits for the disk."""
        clients, peers = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer_port}"
        return [
            str(self.programs["etcd"]),
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def kube_apiserver(self) -> list[str]:
        """The API server. The certificate it makes for itself names ``address``, localhost and the first service."""
        return [
            str(self.programs["kube-apiserver"]),
            f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--bind-address={self.listen}",
            f"--secure-port={self.api_port}",
            f"--advertise-address={self.address}",
            f"--cert-dir={self.authority.parent}",
            f"--token-auth-file={self.tokens}",
            "--authorization-mode=Node,RBAC",
            f"--service-cluster-ip-range={SERVICE_RANGE}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.signing_key}",
            f"--service-account-signing-key-file={self.signing_key}",
            "--kubelet-preferred-address-types=InternalIP",
            "--allow-privileged=true",
            f"--audit-policy-file={self.audit_policy}",
            f"--audit-log-path={self.audit_log}",
            "--audit-log-maxsize=100",
            "--audit-log-maxbackup=1",
            "--profiling=false",
        ]

    def kube_controller_manager(self) -> list[str]:
        """The controllers, without those of WITHOUT."""
        user = "system:kube-controller-manager"
        return [
            str(self.programs["kube-controller-manager"]),
            f"--kubeconfig={self.kubeconfig(user)}",
            *self._alone(user),
            f"--controllers=*,{','.join(f'-{name}' for name in WITHOUT)}",
            "--use-service-account-credentials",  # the bootstrap roles are bound to one account per controller
            f"--root-ca-file={self.authority}",
            f"--service-account-private-key-file={self.signing_key}",
            f"--cluster-cidr={POD_RANGE}",
            "--allocate-node-cidrs=false",
        ]

    def kube_scheduler(self) -> list[str]:
        """The scheduler."""
        user = "system:kube-scheduler"
        return [str(self.programs["kube-scheduler"]), f"--kubeconfig={self.kubeconfig(user)}", *self._alone(user)]

    def kube_proxy(self, node: str) -> list[str]:
        """Services by nftables, for all nodes at once: they share one network namespace."""
        return [
            str(self.programs["kube-proxy"]),
            f"--kubeconfig={self.kubeconfig('system:kube-proxy')}",
            f"--hostname-override={node}",
            "--proxy-mode=nftables",
            f"--cluster-cidr={POD_RANGE}",
            "--metrics-bind-address=127.0.0.1:10249",
            "--healthz-bind-address=127.0.0.1:10256",
            # These are sysctls of the whole machine, which are not ours; 0 leaves them alone.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ]

    def _alone(self, user: str) -> list[str]:
        """What programs have in common that could run in threes and here run once."""
        return [
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--cert-dir={self.kubeconfig(user).with_suffix('')}",
            "--profiling=false",
        ]
