"""Decompression of request bodies within a limit, which stops a decompression bomb."""

import zlib

from service.errors import BadBody, TooLarge, UnsupportedMediaType, quoted

# What zlib calls the two formats.
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = (*_WINDOWS, "identity")
# How many times as long a body may become: DEFLATE's 258 bytes by two bits.
MOST_GROWTH = 1032
# RFC 9110, 8.4.1.3.
_ALIASES = {"x-gzip": "gzip"}


def decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body, decompressed by its ``Content-Encoding``.

    Raises UnsupportedMediaType for another encoding, BadBody for a truncated or corrupt body, or one with
    more bytes after its end, TooLarge for more than ``max_bytes``.
    """
    encoding = encoding.strip().lower() or "identity"
    encoding = _ALIASES.get(encoding, encoding)
    if encoding not in ENCODINGS:
        refusal = UnsupportedMediaType(
            f"Content-Encoding is {quoted(encoding)}, which is not taken here; send {' or '.join(ENCODINGS)}",
            given=encoding,
            allowed=ENCODINGS,
        )
        refusal.headers = {"Accept-Encoding": ", ".join(ENCODINGS)}
        raise refusal
    if encoding == "identity":
        return body
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        content = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadBody(f"the body is no {encoding}, but Content-Encoding is {encoding}: {error}") from error
    if len(content) > max_bytes:
        raise TooLarge(
            f"the body has more than {max_bytes} bytes uncompressed, and {max_bytes} are allowed by the "
            f"setting max_body_bytes",
            allowed=max_bytes,
        )
    if not stream.eof:
        raise BadBody(f"the body is truncated: its {encoding} does not end")
    if stream.unused_data:
        raise BadBody(f"{len(stream.unused_data)} bytes follow the {encoding} in the body")
    return content
