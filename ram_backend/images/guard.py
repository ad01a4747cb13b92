"""URLs and the SSRF guard: which addresses images may be fetched from.

A task may name any URL. An address inside a network (loopback, private,
link-local, shared, reserved, multicast, unspecified) is refused, unless its
host is Label Studio's own or allowed. The connection goes to that very address.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from urllib3.exceptions import LocationParseError
from urllib3.util import Url, parse_url

from ram_backend.errors import ImageRefused, SettingsError

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("168.63.129.16/32", "192.0.0.0/24"),  # what Azure and Oracle tell their machines
        *("192.88.99.0/24", "3fff::/20"),  # 6to4 relays, documentation: public in older Pythons
    )
)
_LONGEST_SHOWN = 200
LONGEST_URL = 20_000
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)")


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port: what a credential belongs to.

    `host` is a name in lower case without trailing dot, or an IP address in its
    usual form without brackets.
    """

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


@dataclass(frozen=True)
class Address:
    """A URL, parsed once: the checked address is the requested one.

    Attributes:
        origin: where it is.
        target: path and query, percent-encoded, as sent in the request line.
    """

    origin: Origin
    target: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Parses an http(s) URL.

        Raises:
            ImageRefused: another scheme, a user or password in it, no host, a
                host written as an odd number, or a length that no server takes.
        """
        shown = redacted(url)
        if len(url) > LONGEST_URL:
            raise ImageRefused(f"{shown}: is longer than {LONGEST_URL:,} characters. Import the image otherwise.")
        try:
            parts = parse_url("" if _CONTROL.search(url) else url)
            port = parts.port
        except (LocationParseError, ValueError):
            parts, port = Url(), None
        if parts.scheme not in _PORTS:
            raise ImageRefused(f"{shown}: only http and https addresses are fetched. Import the image otherwise.")
        if parts.auth is not None:
            raise ImageRefused(f"{shown}: has a user or password in it. Use one without, e.g. a signed one.")
        host = _plain_host(parts.host or "")
        if not host:
            raise ImageRefused(f"{shown}: names no valid host. Check the address.")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query is not None else "")
        return cls(Origin(parts.scheme, host, port or _PORTS[parts.scheme]), target)

    def __str__(self) -> str:
        return redacted(f"{self.origin}{self.target}")


@dataclass(frozen=True)
class AddressGuard:
    """The allow-list of internal addresses.

    `origins` are Label Studio's; an admin allowed `hosts` (with a port, or None
    for all ports) and `networks`.
    """

    origins: frozenset[Origin] = frozenset()
    hosts: frozenset[tuple[str, int | None]] = frozenset()
    networks: tuple[IPNetwork, ...] = ()

    @classmethod
    def parse(cls, allowed: str) -> AddressGuard:
        """Parses the setting RAM_ALLOWED_IMAGE_HOSTS.

        Args:
            allowed: separated by commas: hosts ("minio"), hosts with a port
                ("minio:9000", "[fd00::7]:9000"), networks ("10.1.0.0/16").

        Raises:
            SettingsError: an entry is none of these.
        """
        hosts: set[tuple[str, int | None]] = set()
        networks: list[IPNetwork] = []
        for entry in filter(None, (part.strip() for part in allowed.split(","))):
            try:
                networks.append(ipaddress.ip_network(entry if "/" in entry else "", strict=False))
            except ValueError:
                hosts.add(_allowed_host(entry))
        return cls(hosts=frozenset(hosts), networks=tuple(networks))

    def check(self, origin: Origin, address: str) -> None:
        """Checks one numeric address that the host of an origin resolved to.

        Raises:
            ImageRefused: it is an internal address, and nobody allowed it.
        """
        ip = ipaddress.ip_address(address.partition("%")[0])
        allowed = origin in self.origins or bool({(origin.host, None), (origin.host, origin.port)} & self.hosts)
        if is_internal(ip) and not allowed and not any(ip in network for network in self.networks):
            raise ImageRefused(
                f"{origin}: leads to the internal address {ip}, which images are not fetched from."
                f" If that is where they are, add {origin.host} to RAM_ALLOWED_IMAGE_HOSTS."
            )


def is_internal(ip: IPAddress) -> bool:
    """Whether an address is not public, or wraps an IPv4 address that isn't."""
    if isinstance(ip, ipaddress.IPv6Address):
        wrapped = ip.ipv4_mapped or ip.sixtofour
        if wrapped is None and ip in _NAT64:
            wrapped = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_internal(wrapped)
        if ip.is_site_local:
            return True
    return not ip.is_global or ip.is_multicast or ip.is_reserved or any(ip in each for each in _NOT_PUBLIC)


def redacted(url: str) -> str:
    """A URL on one short line, without login and query."""
    url = url.strip()
    if url[:5].lower() == "data:":
        return f"a data URI ({len(url):,} characters)"
    if len(url) > LONGEST_URL:
        return f"an address ({len(url):,} characters)"
    url = _CONTROL.sub("_", url)
    start, _, query = url.partition("#")[0].partition("?")
    scheme, slashes, rest = start.partition("//")
    authority, slash, path = rest.partition("/")
    if not slashes and not scheme.startswith("/"):
        scheme = scheme.rpartition("@")[2]
    shown = scheme + slashes + authority.rpartition("@")[2] + slash + path
    if query and start.endswith("/data/local-files/"):
        file = parse_qs(query).get("d")
        shown += f"?d={file[0]}" if file else ""
    return shown if len(shown) <= _LONGEST_SHOWN else shown[: _LONGEST_SHOWN - 3] + "..."


def _plain_host(host: str) -> str:
    """Host in the form of `Origin`; "" for an odd number (2130706433, 0x7f.1)."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return "" if _NUMBER.fullmatch(host.rpartition(".")[2]) else host


def _allowed_host(entry: str) -> tuple[str, int | None]:
    bare_ipv6 = entry.count(":") > 1 and not entry.startswith("[")
    try:
        parts = parse_url(f"http://[{entry}]" if bare_ipv6 else f"http://{entry}")
        host = _plain_host(parts.host or "")
    except (LocationParseError, ValueError):
        host, parts = "", Url()
    if not host or "*" in host or parts.auth is not None or (parts.path or "/") != "/" or parts.query is not None:
        raise SettingsError(f"RAM_ALLOWED_IMAGE_HOSTS: {entry!r} is not a host, host:port or network (10.1.0.0/16).")
    return host, parts.port


def is_loopback(host_or_url: str) -> bool:
    """Whether a host, an IP address or a URL is that of this machine."""
    bare_ipv6 = host_or_url.count(":") > 1 and not host_or_url.startswith("[")
    url = host_or_url if "//" in host_or_url else f"//[{host_or_url}]" if bare_ipv6 else f"//{host_or_url}"
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
        return host == "localhost" or host.endswith(".localhost") or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
