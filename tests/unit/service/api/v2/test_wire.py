"""The weight of a request of ``/v2``, estimated before the work is done."""

import json
import math
from typing import Any

import numpy as np
import pytest
from starlette.datastructures import Headers

from service.api.dependencies import RequestLimits
from service.api.request_bodies import JSON_WEIGHT
from service.api.v2.wire import InferenceBody, read, weight
from service.settings import Settings
from tests.fixtures.oip_requests import request

LIMITS = RequestLimits.of(Settings(models=("exported",)))


def sent(content: bytes, headers: dict[str, str]) -> InferenceBody:
    return read(content, Headers(headers), LIMITS, "images")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"images": np.zeros((2, 8, 8, 3), np.uint8)}, 2 * 8 * 8 * 3),
        ({"codes": np.zeros((2, 7, 7), np.int32), "mask": np.ones((1, 7, 7), np.bool_)}, 3 * 49),
        ({}, 0),
    ],
)
def test_arrays_weigh_what_they_hold(given: dict[str, Any], expected: int) -> None:
    assert sent(*request(given)).weight == expected


def test_the_weight_of_files_is_that_of_their_pixels_if_known(seven: bytes) -> None:
    assert sent(*request({"images": [seven, seven]})).weight == 2 * 28 * 28
    assert sent(*request({"images": [seven, b"\xff\xd8\xff"]})).weight == math.inf
    text = b'{"inputs": [{"name": "images", "shape": [1], "datatype": "BYTES", "data": ["iVBORw0K"]}]}'
    assert sent(text, {}).weight == math.inf


def test_labels_weigh_nothing_and_files_are_decoded_once() -> None:
    bytes_of = {"shape": [1], "datatype": "BYTES", "data": ["iVBORw0K"]}
    inputs = [{"name": "images", **bytes_of}, {"name": "label", **bytes_of}]
    received = sent(json.dumps({"inputs": inputs}).encode(), {}).inputs
    assert received["images"].array.tolist() == [b"\x89PNG\r\n"]
    assert received["label"].array.tolist() == ["iVBORw0K"]
    text = json.dumps({"inputs": inputs[1:]}).encode()
    assert sent(text, {}).weight == 0


def test_the_weight_of_a_body_is_that_of_its_json_and_its_bytes() -> None:
    content, headers = request({"images": np.zeros((1, 8, 8, 3), np.uint8)})
    (length,) = map(int, headers.values())
    assert weight(content, Headers(headers)) == JSON_WEIGHT * length + 8 * 8 * 3
    assert weight(content, Headers()) == JSON_WEIGHT * len(content)
