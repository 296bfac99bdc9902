"""Whether a request comes from a program on this machine, and not through a proxy or a browser.

The address of the peer alone does not show that: a proxy on the same machine has a loopback address too, and
so has a browser that runs the scripts of a remote web page. A proxy that adds no header, speaks HTTP/1.1 and
sends a local ``Host`` looks like a local program; ``TESSERA_RELOAD_KEY`` protects a reload there.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.types import Scope

from service.errors import quoted

# Prefixes of the headers in which proxies, load balancers and CDNs name their client.
_FORWARDING = re.compile(
    r"forwarded|via|client-ip|true-client|(cdn|cf|fastly|fly|proxy)-|x-(real|arr)-|x-(forwarded|original"
    r"|originating|client|cluster-client|remote|envoy|azure|amz|appengine|akamai|varnish|host|proxy)"
)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(:\d{1,5})?", re.IGNORECASE)


def why_not_local(scope: Scope) -> str | None:
    """Why a request is not taken for one of a program on this machine; None if it is."""
    client = scope.get("client")
    if client is None or not _is_loopback(client[0]):
        return "it comes from another machine"
    headers = [(str(name, "latin-1"), str(value, "latin-1")) for name, value in scope["headers"]]
    for name, value in headers:
        if _FORWARDING.match(name):
            return f"it came through a proxy: it has the header {quoted(name)}"
        # A browser names the origin of a script; "null" stands for none.
        if name == "origin" and not _is_local_host(_host_of(value)):
            return f"it comes from the web page {quoted(value)}"
    hosts = [value for name, value in headers if name == "host"]
    if len(hosts) != 1 or not _is_local_host(hosts[0]):
        # Any name may resolve to this machine: its owner writes its DNS.
        return f"its Host is {quoted(', '.join(hosts))}, not localhost or 127.0.0.1"
    if scope["http_version"] == "1.0":
        # nginx uses HTTP/1.0 for upstreams by default, perhaps with a local Host.
        return "it is HTTP/1.0, as a proxy's"
    return None


def _host_of(origin: str) -> str:
    """The host and port of an origin; empty if there is none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _is_local_host(host: str) -> bool:
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].strip("[]")
    return name.lower() == "localhost" or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # A dual-stack socket has IPv4 addresses in their IPv6 form.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
