"""Requests that are well formed: any path, query and headers, around any body."""

from random import Random
from urllib.parse import quote, urlencode

from tests.benchmarks.fuzz.bodies import body
from tests.benchmarks.fuzz.documents import MODELS

# The paths that are mostly asked for, and how often.
_PATHS = {
    "/encode": 12,
    "/decode": 8,
    "/reconstruct": 4,
    "/sample": 8,
    "/score": 3,
    "/v2/models/{}/infer": 6,
    "/v2/models/{}:decode/infer": 2,
    "/v2/models/{}/versions/1/infer": 1,
    "/v2/repository/index": 1,
}
_PAGES = (
    *("/", "/livez", "/readyz", "/models", "/models/{}", "/models/{}/codebook", "/models/{}/preview.png"),
    *("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/{}", "/v2/models/{}/ready", "/docs"),
)
# Where a picture is at home, and where a document is.
_OF_PICTURES = {"/encode": 4, "/reconstruct": 2, "/score": 1, "/sample": 1}
_PATHS_FOR = {
    "picture or array": _OF_PICTURES,
    "PNG by chunks": _OF_PICTURES,
    "JPEG by segments": _OF_PICTURES,
    "npy by fields": _OF_PICTURES | {"/decode": 4},
    "form": _OF_PICTURES,
    "document": {"/decode": 3, "/sample": 3, "/encode": 1, "/v2/models/{}/infer": 2},
    "v2 with bytes": {"/v2/models/{}/infer": 1},
}
# What asks all workers, or is long.
_RARE = ("/metrics", "/openapi.json", "/models/reload")
_NAMES = [
    "model",
    "seed",
    "n",
    "method",
    "label",
    "resize",
    "box",
    "steps",
    "temperature",
    "every",
    "samples",
    "x",
]
_VALUES = (
    *("", "\0", "é", "a" * 300, "{}"),
    *["0", "1", "2", "-1", "64", "65", "1e9", "99999999999999999999", "0x1f", "true", "false", "nan", "inf"],
    *["levels", "colours", "prior", "langevin", "interpolate", "0,0,4,4", "0,0,-1,99999", ",,,"],
)
_METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "POST")
_HEADERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Accept", ("*/*", "image/png", "application/json", "application/x-npy", "text/html", ";q=", "a/b;q=9")),
    ("Accept", (",,", "image/*;q=0.1, */*;q=0", "", "a" * 5000)),
    ("Accept-Encoding", ("gzip", "identity;q=0", "*")),
    ("Authorization", ("Bearer x", "Bearer", "Basic Og==", "\xff\xfe")),
    ("Cookie", ("a=b", "a" * 5000)),
    ("Expect", ("100-continue",)),
    ("Forwarded", ("for=1.2.3.4",)),
    ("Host", ("", "example.org", "a" * 300, "127.0.0.1:99999", "[::1]")),
    ("If-None-Match", ("*", '"x"')),
    ("Origin", ("http://example.org", "null")),
    ("Range", ("bytes=0-1", "bytes=-1", "bytes=9-1")),
    ("traceparent", ("00-" + "1" * 32 + "-" + "2" * 16 + "-01", "xx")),
    ("Upgrade", ("websocket", "h2c")),
    ("X-Forwarded-For", ("1.2.3.4", "127.0.0.1, ::1", "x" * 200)),
    ("Inference-Header-Content-Length", ("0", "1", "-1", "99999999999999999999", "x")),
    ("X-Request-Id", ("1", "\xe9" * 100)),
)  # fmt: skip


def request(random: Random) -> tuple[str, str, bytes]:
    """What it is called, its method, and a request that is well formed, whatever it asks for."""
    # What gets through has more of the service to go wrong in than what is refused at once.
    plain = random.random() < 0.4
    headers = [] if plain else _more_headers(random)
    if random.random() < 0.12:
        path = random.choice(_PAGES if random.random() < 0.98 else _RARE)
        method = "GET" if random.random() < 0.7 else random.choice(_METHODS)
        data = b"{}" if method == "POST" else b""
        return "page", method, _joined(random, method, _target(random, path, plain=plain), headers, data)
    kind, data, said = body(random, plain=plain)
    paths = _PATHS_FOR.get(kind, _PATHS) if plain else _PATHS
    path = random.choices(tuple(paths), tuple(paths.values()))[0]
    method = "POST" if plain or random.random() < 0.97 else random.choice(_METHODS)
    if plain and kind == "v2 with bytes":
        # The object is what comes before the bytes.
        headers.append(("Inference-Header-Content-Length", str(data.index(b"}]}") + 3)))
    target = _target(random, path, plain=plain)
    return kind, method, _joined(random, method, target, [*said.items(), *headers], data)


def _joined(random: Random, method: str, target: str, headers: list[tuple[str, str]], data: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    if not any(name == "Host" for name, _ in headers):
        lines.insert(1, "Host: 127.0.0.1")
    if data and random.random() < 0.1:
        lines.append("Transfer-Encoding: chunked")
        data = chunked(random, data)
    elif data or method == "POST":
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + data


def chunked(random: Random, data: bytes) -> bytes:
    size = random.choice((1, 7, 1000, 65_536)) if len(data) < 3000 else random.choice((1000, 65_536))
    parts = []
    for at in range(0, len(data), size):
        part = data[at : at + size]
        extension = b";a=b" if random.random() < 0.01 else b""
        parts.append(b"%x%b\r\n%b\r\n" % (len(part), extension, part))
    return b"".join(parts) + b"0\r\n" + (b"X: y\r\n" if random.random() < 0.1 else b"") + b"\r\n"


def _target(random: Random, path: str, *, plain: bool) -> str:
    """Path and query, percent-encoded or broken in ways that a head may have."""
    if plain:
        # A name that the model does not know is refused before anything else is looked at.
        model = random.choice(MODELS)
        return path.format(model) + ("" if "{" in path else f"?model={model}")
    path = path.format(random.choice((*MODELS, *MODELS, "nobody", "%00", "a" * 200)))
    match random.randrange(30):
        case 0:
            path = "".join(f"%{ord(letter):02x}" if random.random() < 0.5 else letter for letter in path[1:])
            path = "/" + path
        case 1:
            path += random.choice(("/", "//", "%2f", "/../x", ";a=b", "%zz", "%ff", "/" + "a" * 5000))
        case 2:
            path = random.choice(
                ("//", "/./encode", "http://127.0.0.1/livez", "/%c0%ae/", "/static-offline-docs/x")
            )
        case _:
            pass
    if random.random() < 0.3:
        return path
    pairs = [("model", random.choice(MODELS))] if random.random() < 0.8 else []
    pairs += [
        (random.choice(_NAMES), random.choice(_VALUES)) for _ in range(random.choice((0, 0, 0, 1, 2, 5)))
    ]
    query = urlencode(pairs)
    match random.randrange(20):
        case 0:
            query += random.choice(
                ("&%zz=%", "&&=&", "&%00=%ff", "&x=" + "y" * 8000, "&model=" + quote("levels" * 500))
            )
        case 1:
            query = "&".join(f"k{number}=1" for number in range(random.choice((10, 1000))))
        case _:
            pass
    return f"{path}?{query}"


def _more_headers(random: Random) -> list[tuple[str, str]]:
    headers = []
    for _ in range(random.choice((0, 0, 1, 2, 4))):
        name, values = random.choice(_HEADERS)
        headers.append((name, random.choice(values)))
    if random.random() < 0.02:
        headers += [
            (f"X-{number}", "y" * random.choice((1, 100))) for number in range(random.choice((5, 90)))
        ]
    if random.random() < 0.01:
        headers.append(("X-Large", "y" * random.choice((4000, 60_000))))
    # Of two hosts one is wrong, and that is another matter.
    names = [name for name, _ in headers]
    return [header for at, header in enumerate(headers) if header[0] != "Host" or names.index("Host") == at]
