"""``Content-Encoding`` on every endpoint with a body; ``/v2/.../infer`` is in ``v2/test_inference.py``."""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import orjson
import pytest
from fastapi.testclient import TestClient

from service.api.middleware.body_limits import FREE, Budget
from service.codecs.images import to_base64
from service.errors import InflightBytesExceeded
from tests.fixtures.image_files import noise
from tests.unit.service.conftest import make_client, problem

PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def bodies(seven: bytes) -> dict[str, tuple[str, bytes, dict[str, str]]]:
    """Path, body and headers of requests."""
    image = orjson.dumps({"image": to_base64(noise(1, 28, 28, 1))[0]})
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n' + seven
    return {
        "a file": ("/encode", seven, {}),
        "a form": ("/encode", part + b"\r\n--x--\r\n", FORM),
        "json": ("/reconstruct", image, JSON),
        "codes": ("/decode", b'{"codes": [[1]]}', JSON),
        "a sample": ("/sample?model=wanderer", b'{"n": 2, "seed": 1, "method": "stroll"}', JSON),
        "a score": ("/score?model=wanderer&seed=1", image, JSON),
        "an index": ("/v2/repository/index", b'{"ready": true}', JSON),
    }


@pytest.mark.parametrize("what", bodies(b""))
def test_a_compressed_body_is_the_body(client: TestClient, seven: bytes, what: str) -> None:
    path, body, headers = bodies(seven)[what]
    plain = client.post(path, content=body, headers=headers)
    assert plain.status_code == 200, plain.text
    for encoding, pack in PACK.items():
        packed = client.post(path, content=pack(body), headers={**headers, "Content-Encoding": encoding})
        assert packed.content == plain.content
    unknown = client.post(path, content=body, headers={**headers, "Content-Encoding": "br"})
    assert "send gzip or deflate" in problem(unknown, 415, "unsupported-media-type")["detail"]
    assert unknown.headers["accept-encoding"] == "gzip, deflate, identity"


def test_undeclared_gzip_is_refused_with_the_header_to_send(client: TestClient, seven: bytes) -> None:
    refused = client.post("/encode", content=gzip.compress(seven))
    assert "send Content-Encoding: gzip" in problem(refused, 415, "unsupported-media-type")["detail"]
    refused = client.post("/encode", content=b"GIF89a")
    assert "name it in Content-Type" in problem(refused, 415, "unsupported-media-type")["detail"]


def test_a_bomb_is_refused(exported: Path, seven: bytes) -> None:
    gzipped = {"Content-Encoding": "gzip"}
    with make_client(exported, default_model="levels", max_body_bytes=2000) as client:
        for path in ("/encode", "/decode", "/sample", "/v2/repository/index"):
            bomb = client.post(path, content=gzip.compress(bytes(10**6)), headers=gzipped)
            assert "more than 2000 bytes uncompressed" in problem(bomb, 413, "too-large")["detail"]
        broken = client.post("/encode", content=gzip.compress(seven)[:-1], headers=gzipped)
        assert "truncated" in problem(broken, 400, "bad-body")["detail"]
        problem(client.post("/encode", headers=gzipped), 400, "empty-body")


def test_a_compressed_body_counts_with_its_uncompressed_size(exported: Path) -> None:
    body, gzipped = b'{"codes": [[1]]}' + b" " * 2 * FREE, {"Content-Encoding": "gzip"}
    with make_client(exported, default_model="levels") as client:
        assert client.post("/decode", content=gzip.compress(body), headers=gzipped).status_code == 200
        with patch.object(Budget, "check", side_effect=InflightBytesExceeded("full")) as check:
            answer = client.post("/decode", content=gzip.compress(body), headers=gzipped)
    problem(answer, 503, "inflight-bytes-exceeded")
    check.assert_called_once_with(len(body) - FREE)
