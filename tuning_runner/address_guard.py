"""Where a step may connect to: every address a name stands for is checked, and the connection goes to just that one.

The addresses come from users' manifests and from redirects, so they must not lead into the cluster or to the metadata
service of a cloud. A name is looked up once per request and the connection is made to the address that was checked.
"""

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_REDIRECTS = 5
NUMERIC_HOST = re.compile(r"(0x[0-9a-f]*|\d+)(\.(0x[0-9a-f]*|\d+))*\.?", re.IGNORECASE)
"""What inet_aton(3) may take for an address: 127.1, 0x7f.1, 017700000001."""
PRIVATE = tuple(ip_network(n) for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
METADATA = tuple(
    ip_network(n)
    for n in ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::254/128")
)
"""AWS, Azure, Google (link-local), Azure's wire server, Alibaba, Oracle, AWS over IPv6."""
WITH_V4_INSIDE = tuple(ip_network(n) for n in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96"))
"""IPv6 forms of an IPv4 address in the last 32 bits: compatible, mapped, translated, NAT64."""
TUNNELS = tuple(ip_network(n) for n in ("2002::/16", "2001::/32", "64:ff9b:1::/48", "fec0::/10"))
"""6to4, Teredo, local NAT64 and site-local: whatever is behind them is not what it seems."""


class AddressRefused(Exception):
    """An address that must not be connected to; the message says which and what to write instead."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What is allowed besides https to public addresses.

    ``allowed``: networks that may be reached, also by plain http. ``private``: whether private ranges may be reached
    by https, as is usual for registries. ``plain_http``: HOST:PORT reached by plain http, wherever they are.
    """

    allowed: tuple[Network, ...] = ()
    private: bool = False
    plain_http: frozenset[str] = frozenset()

    def addresses(self, url: httpx.URL) -> list[Address]:
        """The addresses of a URL's host, all of them checked. Raises AddressRefused, or httpx.ConnectError."""
        self._check_form(url)
        named = host_and_port(url) in self.plain_http
        found = resolve(url)
        for address in found:
            if not named and (why := self.refusal(address, plain=url.scheme == "http")):
                raise AddressRefused(f"{url.host} {why}")
        return found

    def refusal(self, address: Address, *, plain: bool) -> str:
        """Why this address must not be connected to; "" if it may."""
        address = without_disguise(address)
        if any(address in network for network in self.allowed):
            return ""
        if kind := forbidden_kind(address, private=self.private):
            return f"leads to {address}, {kind}: use a public https address, or have the operator's allow-list name it"
        return "is asked for by plain http: write https://" if plain else ""

    def _check_form(self, url: httpx.URL) -> None:
        if url.scheme not in ("http", "https"):
            raise AddressRefused(f"{url.scheme or 'no scheme'}:// is not downloaded from: write https://")
        if url.userinfo:
            raise AddressRefused(f"the URL for {url.host} carries a user or password: leave them out")
        if not url.host:
            raise AddressRefused("the URL names no host: write https://HOST/PATH")
        host = url.raw_host.decode()
        if NUMERIC_HOST.fullmatch(host) and not _is_plain_v4(host):
            raise AddressRefused(f"{host} is an address in disguise: write it as four decimal numbers, or a name")


class GuardedTransport(httpx.BaseTransport):
    """Sends each request, redirected ones too, to an address that the guard has checked just now."""

    def __init__(self, guard: Guard, *, verify: bool | str = True) -> None:
        self._guard = guard
        # Connections are pooled by address here, and so must not be used again: the next name may be another one.
        limits = httpx.Limits(max_keepalive_connections=0)
        self._inner = httpx.HTTPTransport(limits=limits, verify=verify, trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        addresses = self._guard.addresses(request.url)
        for address in addresses[:-1]:
            try:
                return self._inner.handle_request(_pinned(request, address))
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return self._inner.handle_request(_pinned(request, addresses[-1]))

    def close(self) -> None:
        self._inner.close()


def client(guard: Guard, *, timeout: float = 30, verify: bool | str = True) -> httpx.Client:
    """An HTTP client behind the guard. Proxies of the environment are not used: they would connect for us."""
    return httpx.Client(
        transport=GuardedTransport(guard, verify=verify),
        timeout=timeout,
        follow_redirects=False,
        max_redirects=MAX_REDIRECTS,
        trust_env=False,
        headers={"user-agent": "kaito-tuning-runner", "accept-encoding": "identity"},
    )


def parse_networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """``--allow=CIDR`` values. Raises ValueError that names the one that is not a network."""
    return tuple(ip_network(text) for text in texts)


def parse_url(text: str) -> httpx.URL:
    """A URL as it was written. Raises AddressRefused for what cannot be read as one."""
    # Browsers and curl disagree about these; a person means none of them.
    if re.search(r"[\x00-\x20\x7f\\]", text):
        raise AddressRefused("the URL has a space, a backslash or a control character: write them as %20, %5C …")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise AddressRefused("the URL cannot be read: write https://HOST/PATH") from None
    if url.port is not None and not 0 < url.port < 65536:
        raise AddressRefused(f"{url.host} has port {url.port}: write one from 1 to 65535")
    return url


def host_and_port(url: httpx.URL) -> str:
    """``HOST:PORT`` with the scheme's port where none is written."""
    return f"{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"


def resolve(url: httpx.URL) -> list[Address]:
    """All addresses of a URL's host, as the system knows them. Raises httpx.ConnectError if there are none."""
    host = url.raw_host.decode().strip("[]").rstrip(".")
    try:
        found = socket.getaddrinfo(host, url.port or 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise httpx.ConnectError(f"the name {url.host} is not known") from None
    return list(dict.fromkeys(ip_address(str(sockaddr[0])) for *_, sockaddr in found))


def forbidden_kind(address: Address, *, private: bool) -> str:
    """What is wrong with an address of no allow-list; "" for a public one."""
    if any(address in network for network in METADATA):
        return "a metadata address"
    if any(address in network for network in PRIVATE):
        return "" if private else "a private address"
    if address.is_loopback:
        return "this machine itself"
    if address.is_link_local:
        return "a link-local address"
    if any(address in network for network in TUNNELS):
        return "a tunnel"
    return "no public address" if address.is_multicast or not address.is_global else ""


def without_disguise(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one, where there is one, else the address itself."""
    if isinstance(address, IPv4Address) or address in (IPv6Address("::"), IPv6Address("::1")):
        return address
    inside = any(address in network for network in WITH_V4_INSIDE)
    return IPv4Address(int(address) & 0xFFFFFFFF) if inside else address


def _is_plain_v4(host: str) -> bool:
    try:
        return str(IPv4Address(host)) == host
    except ValueError:
        return False


def _pinned(request: httpx.Request, address: Address) -> httpx.Request:
    """The same request to one address; the certificate is still checked for the name."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.raw_host.decode()},
    )
