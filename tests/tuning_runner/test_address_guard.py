"""Where a step may connect to, and where not."""

import socket
from collections.abc import Callable
from ipaddress import ip_address, ip_network

import httpx
import pytest

from tests.support.faulty_http import Site, serve
from tuning_runner import address_guard
from tuning_runner.address_guard import AddressRefused, Guard, GuardedTransport, parse_url

pytestmark = pytest.mark.security

LOOPBACK = Guard(allowed=(ip_network("127.0.0.0/8"),))

REFUSED_URLS = [
    "https://127.0.0.1/x",
    "https://127.0.0.2/x",
    "https://127.255.255.254/x",
    "https://0.0.0.0/x",
    "https://0.1.2.3/x",
    "https://2130706433/x",
    "https://0x7f000001/x",
    "https://0x7f.0.0.1/x",
    "https://0x7f.1/x",
    "https://0177.0.0.1/x",
    "https://017700000001/x",
    "https://127.1/x",
    "https://127.0.1/x",
    "https://0/x",
    "https://1/x",
    "https://127.0.0.1./x",
    "https://010.8.8.8/x",
    "https://08.8.8.8/x",
    "https://3232235521/x",
    "https://0xa9fea9fe/x",
    "https://2852039166/x",
    "https://0251.0376.0251.0376/x",
    "https://169.254.43518/x",
    "https://10.0.0.1/x",
    "https://10.255.255.255/x",
    "https://172.16.0.1/x",
    "https://172.31.255.254/x",
    "https://192.168.0.1/x",
    "https://100.64.0.1/x",
    "https://100.100.100.200/x",
    "https://169.254.169.254/x",
    "https://169.254.170.2/x",
    "https://169.254.0.1/x",
    "https://168.63.129.16/x",
    "https://192.0.0.192/x",
    "https://192.0.2.1/x",
    "https://198.18.0.1/x",
    "https://198.51.100.1/x",
    "https://203.0.113.1/x",
    "https://224.0.0.1/x",
    "https://239.255.255.250/x",
    "https://240.0.0.1/x",
    "https://255.255.255.255/x",
    "https://[::1]/x",
    "https://[::]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[::ffff:7f00:1]/x",
    "https://[::ffff:10.0.0.1]/x",
    "https://[::ffff:169.254.169.254]/x",
    "https://[::127.0.0.1]/x",
    "https://[::a00:1]/x",
    "https://[::ffff:0:127.0.0.1]/x",
    "https://[64:ff9b::7f00:1]/x",
    "https://[64:ff9b::a9fe:a9fe]/x",
    "https://[64:ff9b:1::1]/x",
    "https://[2002:7f00:1::1]/x",
    "https://[2001:0:7f00:1::1]/x",
    "https://[fe80::1]/x",
    "https://[febf::1]/x",
    "https://[fc00::1]/x",
    "https://[fd00:ec2::254]/x",
    "https://[fec0::1]/x",
    "https://[ff02::1]/x",
    "https://[2001:db8::1]/x",
    "https://[100::1]/x",
    "https://localhost/x",
    "https://LOCALHOST/x",
    "https://localhost./x",
    "https://user@8.8.8.8/x",
    "https://user:pw@8.8.8.8/x",
    "https://8.8.8.8@127.0.0.1/x",
    "https://8.8.8.8:80@10.0.0.1/x",
    "http://8.8.8.8/x",
    "http://[2606:4700::1111]/x",
    "ftp://8.8.8.8/x",
    "file:///etc/passwd",
    "gopher://8.8.8.8/x",
    "data:,x",
    "ws://8.8.8.8/x",
    "https:///x",
    "//8.8.8.8/x",
]
ALLOWED_URLS = (
    "https://8.8.8.8/x",
    "https://1.1.1.1:8443/x",
    "https://[2606:4700::1111]/x",
    "https://[64:ff9b::808:808]/x",
)


def test_addresses_that_are_refused(count_cases: Callable[[str, int], None]) -> None:
    let_through = [text for text in REFUSED_URLS if not _is_refused(text)]
    count_cases("address guard", len(REFUSED_URLS) + len(ALLOWED_URLS))
    assert let_through == []
    assert len(REFUSED_URLS) >= 60


@pytest.mark.parametrize("text", ALLOWED_URLS)
def test_public_addresses_are_allowed(text: str) -> None:
    assert Guard().addresses(parse_url(text)) == [ip_address(httpx.URL(text).host)]


def test_one_bad_address_among_good_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    _names(monkeypatch, {"two.example": [["8.8.8.8", "10.0.0.1"]]})
    with pytest.raises(AddressRefused, match=r"two\.example leads to 10\.0\.0\.1"):
        Guard().addresses(parse_url("https://two.example/x"))


def test_registries_may_be_private_by_https_but_never_loopback_or_metadata() -> None:
    guard = Guard(private=True)
    assert guard.refusal(ip_address("10.0.0.1"), plain=False) == ""
    assert "plain http" in guard.refusal(ip_address("10.0.0.1"), plain=True)
    for address in ("127.0.0.1", "169.254.169.254", "100.100.100.200", "fd00:ec2::254", "::ffff:127.0.0.1"):
        assert guard.refusal(ip_address(address), plain=False), address


def test_a_name_that_changes_after_the_check_is_still_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebinding: the connection goes to the address of the one look-up, though the next one would differ."""
    with serve(Site(files={"/x": b"right"})) as site:
        looked_up = _names(monkeypatch, {"rebind.example": [["127.0.0.1"], ["127.0.0.9"]]})
        with address_guard.client(LOOPBACK) as client:
            assert client.get(f"http://rebind.example:{site.port}/x").content == b"right"
        assert looked_up == ["rebind.example"]
        assert site.seen[0][2]["host"] == f"rebind.example:{site.port}"


def test_every_address_of_a_redirect_chain_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Site()) as site:
        _names(monkeypatch, {"inner.example": [["10.9.9.9"]]})
        site.redirects = {"/a": "/b", "/b": f"http://127.0.0.1:{site.port}/c", "/c": "https://inner.example/secret"}
        with address_guard.client(LOOPBACK) as client, pytest.raises(AddressRefused, match=r"10\.9\.9\.9"):
            client.get(f"{site.url}/a", follow_redirects=True)
        assert [path for _, path, _ in site.seen] == ["/a", "/b", "/c"]


@pytest.mark.parametrize("target", ["http://8.8.8.8/x", "https://169.254.169.254/latest", "file:///etc/passwd"])
def test_a_redirect_to_what_is_not_allowed_is_refused(target: str) -> None:
    refused = pytest.raises((AddressRefused, httpx.UnsupportedProtocol))
    with serve(Site(redirects={"/a": target})) as site, address_guard.client(LOOPBACK) as client, refused:
        client.get(f"{site.url}/a", follow_redirects=True)


def test_redirects_without_end_end() -> None:
    with serve(Site(redirects={"/a": "/a"})) as site, address_guard.client(LOOPBACK) as client:
        with pytest.raises(httpx.TooManyRedirects):
            client.get(f"{site.url}/a", follow_redirects=True)
        assert len(site.seen) == address_guard.MAX_REDIRECTS + 1


def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(Site(files={"/x": b"direct"})) as site, serve(Site()) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        with httpx.Client(transport=GuardedTransport(LOOPBACK), trust_env=False) as client:
            assert client.get(f"{site.url}/x").content == b"direct"
        assert proxy.seen == []


def _is_refused(text: str) -> bool:
    try:
        Guard().addresses(parse_url(text))
    except AddressRefused:
        return True
    return False


def _names(monkeypatch: pytest.MonkeyPatch, table: dict[str, list[list[str]]]) -> list[str]:
    """Lets names stand for addresses, look-up by look-up, as a DNS server of an attacker would."""
    real, looked_up = socket.getaddrinfo, []

    def getaddrinfo(host: str, port: int, *args: object, **kwargs: object) -> object:
        if host not in table:
            return real(host, port, *args, **kwargs)  # type: ignore[arg-type]
        looked_up.append(host)
        addresses = table[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return looked_up
