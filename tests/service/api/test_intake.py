from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from service import npy
from tests.service.conftest import make_client, problem


@pytest.fixture(scope="module")
def small(exported: Path) -> Iterator[TestClient]:
    with make_client(
        exported,
        default_model="levels",
        max_body_bytes=5000,
        max_images=3,
        max_pixels=2000,
        max_total_pixels=4000,
    ) as client:
        yield client


def test_a_body_that_says_it_is_too_long_is_not_read(small: TestClient) -> None:
    def body() -> Iterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    answer = small.post("/encode", content=body(), headers={"Content-Length": "5001"})
    told = problem(answer, 413, "too-large")
    assert (told["given"], told["allowed"]) == (5001, 5000)


@pytest.mark.parametrize("path", ["/encode", "/decode", "/sample"])
def test_a_body_that_says_nothing_is_counted(small: TestClient, path: str) -> None:
    read = 0

    def body() -> Iterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1000
            yield b"x" * 1000

    problem(small.post(path, content=body(), headers={"Content-Type": "image/png"}), 413, "too-large")


def test_a_form_is_counted_too(small: TestClient) -> None:
    answer = small.post("/encode", files={"image": b"x" * 6000})
    assert problem(answer, 413, "too-large")["allowed"] == 5000


def test_a_body_of_just_that_length_is_read(small: TestClient) -> None:
    problem(small.post("/encode", content=b"x" * 5000), 415, "unsupported-media-type")


def test_too_many_files(small: TestClient, seven: bytes) -> None:
    told = problem(small.post("/encode", files=[("image", seven)] * 4), 413, "too-large")
    assert told["allowed"] == 3


def test_too_many_rows(small: TestClient) -> None:
    told = problem(small.post("/encode", content=npy.dump(np.zeros((4, 8, 8), np.uint8))), 413, "too-large")
    assert (told["given"], told["allowed"]) == (4, 3)
    problem(small.post("/decode", json={"codes": [[[1]]] * 4}), 413, "too-large")
    problem(small.post("/sample?model=colours&label=0&n=4"), 413, "too-large")


def test_too_many_pixels(small: TestClient) -> None:
    told = problem(small.post("/encode", content=npy.dump(np.zeros((50, 50), np.uint8))), 413, "too-large")
    assert (told["given"], told["allowed"]) == (2500, 2000)
    problem(small.post("/decode", json={"codes": [[1] * 12] * 12}), 413, "too-large")


def test_too_many_pixels_together(small: TestClient) -> None:
    batch = np.zeros((3, 40, 40), np.uint8)
    problem(small.post("/encode?resize=false", content=npy.dump(batch)), 413, "too-large")
    assert small.post("/encode", content=npy.dump(batch)).status_code == 200
