"""The command lines and files of the control plane, as values."""

import base64
import json
import stat
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from local_cluster import charts, credentials, kubelet, namespace
from local_cluster.binaries import CLUSTER
from local_cluster.control_plane import SERVICE_RANGE, ControlPlane
from local_cluster.kubelet import Node, Taint

PLANE = ControlPlane(
    {name: Path("/bin") / name for name in CLUSTER}, Path("/d"), etcd_port=1, etcd_peer_port=2, api_port=3
)
NODE = Node(
    "aks-ws1-00000001-vmss000000",
    7,
    Path("/run/kaito/nodes/aks-ws1-00000001-vmss000000"),
    labels={"b": "2", "a": "1"},
    taints=(Taint("sku", "gpu"),),
    provider_id="azure:///x",
    gpus=2,
)


def flags(argv: list[str]) -> dict[str, str]:
    """The flags of a command line."""
    return {name: value for name, _, value in (flag.removeprefix("--").partition("=") for flag in argv[1:])}


def test_without_a_namespace_everything_stays_on_loopback() -> None:
    assert flags(PLANE.etcd())["listen-client-urls"] == "http://127.0.0.1:1"
    assert flags(PLANE.etcd())["listen-peer-urls"] == "http://127.0.0.1:2"
    server = flags(PLANE.kube_apiserver())
    assert (server["bind-address"], server["secure-port"]) == ("127.0.0.1", "3")
    assert server["etcd-servers"] == "http://127.0.0.1:1"
    assert PLANE.url == "https://127.0.0.1:3"


def test_service_account_tokens_are_verified_with_the_key_that_signs_them() -> None:
    server, controllers = flags(PLANE.kube_apiserver()), flags(PLANE.kube_controller_manager())
    assert server["service-account-key-file"] == controllers["service-account-private-key-file"]
    assert server["service-account-signing-key-file"] == server["service-account-key-file"]
    assert controllers["root-ca-file"] == f"{server['cert-dir']}/apiserver.crt"


def test_only_one_flag_a_name_and_every_program_from_its_place() -> None:
    commands = [PLANE.etcd(), PLANE.kube_apiserver(), PLANE.kube_controller_manager(), PLANE.kube_scheduler()]
    for argv in [*commands, PLANE.kube_proxy("n")]:
        assert len(flags(argv)) == len(argv) - 1
        assert argv[0] in {f"/bin/{name}" for name in CLUSTER}


def test_kube_proxy_leaves_the_machines_settings_alone() -> None:
    proxy = flags(PLANE.kube_proxy("kaito-system"))
    assert {value for name, value in proxy.items() if name.startswith("conntrack")} == {"0"}
    assert proxy["proxy-mode"] == "nftables"


def test_a_node_has_an_address_and_a_pod_range_of_its_own_outside_the_services() -> None:
    assert (NODE.address, NODE.pod_range) == ("10.244.255.7", "10.244.7.0/24")
    assert Node("s", 1, Path()).address == namespace.SYSTEM_ADDRESS
    assert SERVICE_RANGE == "10.96.0.0/16"


def test_a_nodes_longest_socket_fits() -> None:
    deepest = NODE.directory / "kubelet" / "pod-resources" / "kubelet.sock"
    assert len(str(deepest)) <= 107


def test_a_kubelet_gets_what_the_cloud_says_about_its_machine() -> None:
    config = kubelet.configuration(NODE)
    assert config["registerWithTaints"] == [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
    assert config["providerID"] == "azure:///x"
    assert config["containerRuntimeEndpoint"] == f"unix://{NODE.directory}/cri.sock"
    argv = kubelet.command(NODE, program=Path("/bin/kubelet"), kubeconfig=Path("/k"), config=Path("/c"))
    given = flags(argv[4:])
    assert argv[3:5] == ["with-one-user", "/bin/kubelet"]
    assert (given["hostname-override"], given["node-ip"], given["node-labels"]) == (NODE.name, NODE.address, "a=1,b=2")


def test_a_kubelet_measures_and_evicts_where_it_can_and_keeps_free_what_a_label_says() -> None:
    free = {f"{place}fs.{what}" for place in ("node", "image") for what in ("available", "inodesFree")}
    nobody = dict.fromkeys({*free, "memory.available"}, "0%")
    plain = kubelet.configuration(NODE)
    assert plain["evictionHard"] == nobody
    full = kubelet.configuration(replace(NODE, labels={kubelet.KEPT_FREE: "99"}))
    assert full["evictionHard"] == {**nobody, "nodefs.available": "99%"}
    for measured in (True, False):
        config = kubelet.configuration(replace(NODE, measured=measured))
        assert config["localStorageCapacityIsolation"] is measured


def test_the_signing_key_is_a_p256_key_and_never_the_same() -> None:
    key = load_pem_private_key(credentials.new_signing_key().encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.curve.name == "secp256r1"
    assert credentials.new_signing_key() != credentials.new_signing_key()


def test_the_token_file_has_a_line_for_every_user() -> None:
    tokens = credentials.new_tokens()
    lines = credentials.token_file(tokens).splitlines()
    assert lines[0] == f'{tokens["admin"]},admin,admin,"system:masters"'
    assert [line.split(",")[1] for line in lines] == list(credentials.USERS)
    assert len(set(tokens.values())) == len(tokens)


def test_a_kubeconfig_carries_all_it_needs() -> None:
    written = credentials.kubeconfig(server="https://localhost:1", token="t", authority=b"PEM", cluster="one")
    assert written["clusters"] == [
        {
            "name": "one",
            "cluster": {
                "server": "https://localhost:1",
                "certificate-authority-data": base64.b64encode(b"PEM").decode(),
            },
        }
    ]
    assert written["users"] == [{"name": "one", "user": {"token": "t"}}]
    assert written["contexts"][0]["name"] == written["current-context"]


def test_a_kubelet_speaks_as_the_node_it_is() -> None:
    written = credentials.kubeconfig(
        server="s", token="t", authority=b"", cluster="one", acts_as="system:node:n", group="system:nodes"
    )
    assert written["users"][0]["user"] == {"token": "t", "as": "system:node:n", "as-groups": ["system:nodes"]}


def test_secrets_are_for_their_owner_alone_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "pki" / "config"
    credentials.write_secret(path, "first")
    credentials.write_secret(path, {"a": 1})
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_the_charts_get_no_value_they_do_not_have() -> None:
    import yaml

    def unknown(given: object, known: object, path: str = "") -> list[str]:
        if not isinstance(given, dict):
            return []
        if not isinstance(known, dict):
            return [path]
        return [
            name
            for key, value in given.items()
            for name in ([f"{path}.{key}"] if key not in known else unknown(value, known[key], f"{path}.{key}"))
        ]

    for chart, values in charts.VALUES.items():
        assert unknown(values, yaml.safe_load((charts.CHARTS / chart / "values.yaml").read_text())) == []
