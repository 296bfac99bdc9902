"""Bodies that came compressed, unpacked within a limit: a decompression bomb stays packed."""

import zlib

from service.errors import BadBody, TooLarge, UnsupportedMediaType, quoted

# What zlib calls the two formats.
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = (*_WINDOWS, "identity")


def unpacked(body: bytes, encoding: str | None, max_bytes: int) -> bytes:
    """The body that a ``Content-Encoding`` says was compressed; without one, the body as it is.

    Raises UnsupportedMediaType for another encoding, BadBody for what is truncated, corrupt or followed by
    more bytes, TooLarge for more than ``max_bytes``.
    """
    encoding = (encoding or "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise UnsupportedMediaType(
            f"Content-Encoding is {quoted(encoding)}, which is not taken here; send {' or '.join(ENCODINGS)}",
            given=encoding,
            allowed=ENCODINGS,
        )
    if encoding == "identity":
        return body
    stream = zlib.decompressobj(_WINDOWS[encoding])
    try:
        content = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise BadBody(f"the body is no {encoding}, as its Content-Encoding says: {error}") from error
    if len(content) > max_bytes:
        raise TooLarge(
            f"the body is more than {max_bytes} bytes when it is unpacked, and {max_bytes} are allowed by "
            f"the setting max_body_bytes",
            allowed=max_bytes,
        )
    if not stream.eof:
        raise BadBody(f"the body is truncated: its {encoding} does not end")
    if stream.unused_data:
        raise BadBody(f"{len(stream.unused_data)} bytes follow the {encoding} in the body")
    return content
