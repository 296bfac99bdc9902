"""Triton's own client, as it comes, against a running service."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from tests.fixtures import completion_model, continuous_model, toy_models
from tests.fixtures.processes import serving

SEVEN = (Path(__file__).parents[1] / "fixtures" / "seven.png").read_bytes()
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
CODES = np.random.default_rng(2).integers(0, 16, (3, 7, 7), dtype=np.int32)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("exported")
    toy_models.write_levels(folder)
    completion_model.write(folder)
    continuous_model.write(folder)
    with serving(folder, "--provider=cpu", "--threads=1", "--workers=1") as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(url.removeprefix("http://"), concurrency=8) as client:
        yield client


def tensor(name: str, values: NDArray[Any], *, binary: bool = True) -> InferInput:
    given = InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    return given.set_data_from_numpy(values, binary_data=binary)


def files(name: str, *contents: bytes) -> InferInput:
    return tensor(name, np.array(contents, dtype=np.object_))


def output(result: InferResult, name: str) -> NDArray[Any]:
    array = result.as_numpy(name)
    assert array is not None
    return np.asarray(array)


def rest(url: str, path: str, body: bytes) -> NDArray[Any]:
    """What REST answers as npy."""
    answer = httpx2.post(f"{url}{path}", content=body, headers={"Accept": "application/x-npy"})
    assert answer.status_code == 200, answer.text
    return np.asarray(np.load(io.BytesIO(answer.content), allow_pickle=False))


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_the_server_and_its_models_are_ready(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "tessera"
    version = client.get_model_metadata("levels")["versions"][0]
    for name in ("levels", "levels:decode", "patchwork:sample:prior"):
        assert client.is_model_ready(name)
    assert client.is_model_ready("levels", version)
    assert not client.is_model_ready("levels", "1")
    assert not client.is_model_ready("levels:sample:prior")


def test_metadata_is_enough_to_make_a_request(client: InferenceServerClient) -> None:
    version = client.get_model_metadata("levels:encode")["versions"][0]
    metadata = client.get_model_metadata("levels:encode", version)
    (given,), (wanted,) = metadata["inputs"], metadata["outputs"]
    assert given["datatype"] == np_to_triton_dtype(IMAGES.dtype)
    assert [axis in (-1, size) for axis, size in zip(given["shape"], IMAGES.shape, strict=True)] == [True] * 4
    result = client.infer("levels:encode", [tensor(given["name"], IMAGES)], version)
    assert np_to_triton_dtype(output(result, wanted["name"]).dtype) == wanted["datatype"]


def test_the_index_names_what_can_be_asked_for(client: InferenceServerClient) -> None:
    entries = client.get_model_repository_index()
    assert {"levels", "patchwork:sample:prior"} <= {entry["name"] for entry in entries}
    for entry in entries:
        assert entry["state"] == "READY"
        assert client.is_model_ready(entry["name"], entry["version"])


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False, None])
def test_codes_are_those_of_rest(
    client: InferenceServerClient, url: str, binary_in: bool, binary_out: bool | None
) -> None:
    wanted = None if binary_out is None else [InferRequestedOutput("codes", binary_data=binary_out)]
    given = [tensor("images", IMAGES, binary=binary_in)]
    result = client.infer("levels", given, outputs=wanted, request_id="42")
    codes = output(result, "codes")
    np.testing.assert_array_equal(codes, toy_models.levels(IMAGES))
    np.testing.assert_array_equal(codes, rest(url, "/encode?model=levels", npy(IMAGES)))
    response = result.get_response()
    assert (response["id"], response["model_name"]) == ("42", "levels")


def test_files_go_in_as_they_are(client: InferenceServerClient, url: str) -> None:
    codes = output(client.infer("levels", [files("images", SEVEN, SEVEN)]), "codes")
    expected = rest(url, "/encode?model=levels", SEVEN)
    np.testing.assert_array_equal(codes, np.repeat(expected, 2, axis=0))


def test_images_come_back(client: InferenceServerClient) -> None:
    images = output(client.infer("levels:decode", [tensor("codes", CODES)]), "images")
    np.testing.assert_array_equal(images, toy_models.pixels(CODES))
    both = client.infer("levels:reconstruct", [tensor("images", images)])
    np.testing.assert_array_equal(output(both, "codes"), toy_models.levels(images))
    np.testing.assert_array_equal(output(both, "images"), toy_models.pixels(toy_models.levels(images)))


def test_samples_are_those_of_their_seed(client: InferenceServerClient) -> None:
    result = client.infer("patchwork:sample:prior", [], parameters={"n": 4, "seed": 5, "spread": 3})
    codes = output(result, "codes")
    np.testing.assert_array_equal(codes, completion_model.drawn(5, range(4), spread=3))
    np.testing.assert_array_equal(output(result, "images"), toy_models.pixels(codes))
    assert result.get_response()["parameters"]["seed"] == 5
    label = np.array([b"odd", b"even"], dtype=np.object_)
    labelled = client.infer("patchwork:sample:prior", [tensor("label", label)], parameters={"seed": 5})
    odd = output(labelled, "codes")
    np.testing.assert_array_equal(odd[0], completion_model.drawn(5, range(1), label=1)[0])


def test_codes_beside_a_mask_are_kept(client: InferenceServerClient) -> None:
    mask = np.random.default_rng(3).random((1, 7, 7)) < 0.4
    given = [tensor("given", CODES), tensor("mask", mask)]
    codes = output(client.infer("patchwork:sample:prior", given, parameters={"seed": 5}), "codes")
    np.testing.assert_array_equal(codes, np.where(mask, completion_model.drawn(5, range(3)), CODES))


def test_figures_and_states_without_any_values(client: InferenceServerClient) -> None:
    dark = np.zeros((1, 8, 8, 3), np.uint8)
    wanted = [InferRequestedOutput("logarithm", binary_data=binary) for binary in (True, False)]
    for one in wanted:
        scored = client.infer("wanderer:score", [tensor("images", dark)], outputs=[one])
        assert not np.isfinite(output(scored, "logarithm")).any()
    strolled = client.infer("wanderer:sample:stroll", [], parameters={"n": 2})
    assert output(strolled, "states").shape == (2, 0, 3)


def test_many_requests_at_once(client: InferenceServerClient) -> None:
    expected = np.random.default_rng(4).integers(0, 16, (40, 7, 7), dtype=np.int32)
    rows = toy_models.pixels(expected)
    waiting = [client.async_infer("levels", [tensor("images", rows[item : item + 1])]) for item in range(40)]
    codes = np.concatenate([output(one.get_result(), "codes") for one in waiting])
    np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("packing", ["gzip", "deflate"])
def test_bodies_may_be_packed(client: InferenceServerClient, packing: str) -> None:
    result = client.infer(
        "levels",
        [tensor("images", IMAGES)],
        request_compression_algorithm=packing,
        response_compression_algorithm=packing,
    )
    np.testing.assert_array_equal(output(result, "codes"), toy_models.levels(IMAGES))


@pytest.mark.parametrize(
    ("name", "given", "status", "words"),
    [
        ("levls", [tensor("images", IMAGES)], "404", "did you mean 'levels'?"),
        ("levels:decod", [tensor("images", IMAGES)], "404", "did you mean 'levels:decode'?"),
        ("levels", [tensor("image", IMAGES)], "422", "did you mean 'images'?"),
        ("levels", [files("images", b"no picture")], "400", "is no PNG, JPEG or WebP that can be read"),
        ("levels:decode", [tensor("codes", CODES + 16)], "422", "it must be in 0 to 15"),
        (
            "levels",
            [InferInput("images", [1, 28, 28, 1], "UINT8").set_shared_memory("region", 784)],
            "422",
            "shared memory is not read or written here",
        ),
    ],
)
def test_errors_are_shown(
    client: InferenceServerClient, name: str, given: list[InferInput], status: str, words: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer(name, given)
    assert caught.value.status() == status
    assert words in caught.value.message()


def test_what_is_not_there_is_shown(client: InferenceServerClient) -> None:
    classes = InferRequestedOutput("codes", class_count=3)
    with pytest.raises(InferenceServerException, match="outputs are not turned into classes here"):
        client.infer("levels", [tensor("images", IMAGES)], outputs=[classes])
    with pytest.raises(InferenceServerException, match="there is nothing at '/v2/models/levels/config'"):
        client.get_model_config("levels")
    with pytest.raises(InferenceServerException, match="there is nothing at '/v2/models/levels/stats'"):
        client.get_inference_statistics("levels")
    with pytest.raises(InferenceServerException, match="there is nothing at"):
        client.load_model("levels")
