import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs.compression import decompressed
from service.errors import BadBody, TooLarge, UnsupportedMediaType

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@given(st.binary(max_size=300), st.sampled_from(sorted(COMPRESS)))
def test_a_compressed_body_round_trips(content: bytes, encoding: str) -> None:
    assert decompressed(COMPRESS[encoding](content), encoding, 300) == content
    assert decompressed(COMPRESS[encoding](content), f" {encoding.upper()} ", 300) == content


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_an_uncompressed_body_is_unchanged(encoding: str) -> None:
    assert decompressed(b"abc", encoding, 3) == b"abc"


@pytest.mark.parametrize("encoding", sorted(COMPRESS))
def test_a_decompression_bomb_is_refused(encoding: str) -> None:
    bomb = COMPRESS[encoding](bytes(10**7))
    assert len(decompressed(bomb, encoding, 10**7)) == 10**7
    with pytest.raises(TooLarge, match="more than 9999999 bytes uncompressed"):
        decompressed(bomb, encoding, 10**7 - 1)


@pytest.mark.parametrize("encoding", sorted(COMPRESS))
def test_a_corrupt_body_is_refused(encoding: str) -> None:
    compressed = COMPRESS[encoding](b"abc" * 50)
    with pytest.raises(BadBody, match="truncated"):
        decompressed(compressed[:-1], encoding, 1000)
    with pytest.raises(BadBody, match="3 bytes follow"):
        decompressed(compressed + b"xyz", encoding, 1000)
    with pytest.raises(BadBody, match=f"is no {encoding}"):
        decompressed(b"{}", encoding, 1000)


@pytest.mark.parametrize("encoding", ["br", "gzip, deflate", "zstd"])
def test_another_encoding_is_named_with_those_that_are_taken(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip or deflate or identity") as caught:
        decompressed(b"abc", encoding, 1000)
    assert caught.value.members["given"] == encoding
    assert caught.value.headers == {"Accept-Encoding": "gzip, deflate, identity"}


def test_the_old_name_of_gzip() -> None:
    assert decompressed(gzip.compress(b"abc"), "x-gzip", 3) == b"abc"
