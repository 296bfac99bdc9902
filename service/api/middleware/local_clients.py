"""Whether a request comes from a program on this machine, and is not passed on for someone elsewhere.

The address of the peer alone does not say so: a proxy on the same machine has a loopback address too, and so
has a browser that runs the scripts of a web page from elsewhere. A proxy that adds no header, keeps to
HTTP/1.1 and sends a local ``Host`` cannot be told from a local program; ``TESSERA_RELOAD_KEY`` can.
"""

import ipaddress
import re
from urllib.parse import urlsplit

from starlette.types import Scope

from service.errors import quoted

# Begins of the names of headers with which proxies, balancers and content networks say for whom they call.
_FORWARDING = re.compile(
    r"forwarded|via|client-ip|true-client|(cdn|cf|fastly|fly|proxy)-|x-(real|arr)-|x-(forwarded|original"
    r"|originating|client|cluster-client|remote|envoy|azure|amz|appengine|akamai|varnish|host|proxy)"
)
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(:\d{1,5})?", re.IGNORECASE)


def why_not_local(scope: Scope) -> str | None:
    """What shows that a request does not come from this machine, or cannot be trusted to; None if nothing."""
    client = scope.get("client")
    if client is None or not _is_loopback(client[0]):
        return "it comes from another machine"
    headers = [(str(name, "latin-1"), str(value, "latin-1")) for name, value in scope["headers"]]
    for name, value in headers:
        if _FORWARDING.match(name):
            return f"it came through a proxy: it has the header {quoted(name)}"
        # A browser says of a script's request from which page it is; "null" is said of those of no page.
        if name == "origin" and not _is_local_host(_host_of(value)):
            return f"it comes from the web page {quoted(value)}"
    hosts = [value for name, value in headers if name == "host"]
    if len(hosts) != 1 or not _is_local_host(hosts[0]):
        # A name that leads here may be anyone's: DNS says what its owner likes.
        return f"its Host is {quoted(', '.join(hosts))}, not localhost or 127.0.0.1"
    if scope["http_version"] == "1.0":
        # The default of nginx towards its upstream, whose Host may be local.
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
    # A socket for both families tells IPv4 addresses as IPv6.
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
