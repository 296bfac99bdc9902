import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load

from service.codecs import npy
from tests.fixtures import halved_model, toy_models
from tests.unit.service.conftest import ServiceClient, make_client, problem


def test_the_list(client: ServiceClient) -> None:
    listed = client.get("/models").json()
    models, limits = listed["models"], listed["limits"]
    assert limits == {name: getattr(client.context.settings, name) for name in limits}
    assert limits.keys() >= {"max_images", "max_total_pixels", "max_body_bytes"}
    assert [(model["name"], model["default"]) for model in models] == [
        ("colours", False),
        ("levels", True),
        ("oddity", False),
        ("patchwork", False),
        ("wanderer", False),
    ]
    assert models[0]["operations"] == ["decode", "encode", "sample/prior", "sample/walk"]


def test_all_of_a_model_and_nothing_private(client: TestClient) -> None:
    answer = client.get("/models/colours")
    shown = answer.json()
    assert shown["provider"] == "cpu"
    assert shown["labels"] == ["red", "green", "blue"]
    assert shown["operations"]["sample/walk"]["parameters"]["steps"]["maximum"] == 100
    assert client.get("/models/levels").json()["measures"][0]["values"] == {"mse": 0.01}
    assert client.get("/models/levels").json()["codebook"] == [16, 2]
    # The training's configuration may name files of another machine.
    assert "private" not in answer.text
    assert "sha256" not in answer.text


def test_which_precisions_a_model_has_and_in_which_it_runs(tmp_path: Path) -> None:
    halved_model.write(tmp_path)
    toy_models.write_colours(tmp_path)
    with make_client(tmp_path, precision="16") as client:
        ready = {model.pop("name"): model for model in client.get("/readyz").json()["models"]}
        listed = {model["name"]: model for model in client.get("/models").json()["models"]}
        shown = client.get("/models/levels").json()
    assert (ready["levels"]["precision"], ready["levels"]["precision_reason"]) == ("16", None)
    assert ready["colours"]["precision"] == listed["colours"]["precision"] == "32"
    assert ready["colours"]["precision_reason"] == "the model has no graphs in precision 16"
    assert (listed["levels"]["precision"], listed["levels"]["precisions"]) == ("16", ["32", "16"])
    assert listed["colours"]["precisions"] == ["32"]
    assert shown["precisions"]["16"]["graphs"] == {"decode": "decoder.fp16.onnx"}
    assert shown["precisions"]["16"]["agreement"] == {
        "images": 9,
        "codes_equal": 0.999,
        "psnr_lost": 0.001,
        "within_one_level": 1,
    }


def test_the_codebook_in_every_form(client: TestClient) -> None:
    plain = client.get("/models/levels/codebook")
    assert plain.headers["content-type"] == "application/x-safetensors"
    assert 'filename="levels.safetensors"' in plain.headers["content-disposition"]
    np.testing.assert_array_equal(load(plain.content)["vectors"], toy_models.VECTORS)
    for accept, vectors in (
        ("application/x-npy", lambda answer: npy.load(answer.content)),
        ("application/json", lambda answer: np.array(answer.json()["codebook"], np.float32)),
    ):
        answer = client.get("/models/levels/codebook", headers={"Accept": accept})
        assert answer.headers["content-type"] == accept
        np.testing.assert_array_equal(vectors(answer), toy_models.VECTORS)
    refused = client.get("/models/levels/codebook", headers={"Accept": "image/png"})
    problem(refused, 406, "not-acceptable")


def test_the_preview(client: TestClient) -> None:
    answer = client.get("/models/levels/preview.png")
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (56, 28)


@pytest.mark.parametrize("path", ["/models/colours/codebook", "/models/colours/preview.png"])
def test_what_a_model_lacks(client: TestClient, path: str) -> None:
    problem(client.get(path), 404, "missing-file")


@pytest.mark.parametrize("path", ["/models/{}", "/models/{}/codebook", "/models/{}/preview.png"])
@pytest.mark.parametrize("name", ["levles", "..%2f..%2fetc", "%00", "levels%2fmanifest.json"])
def test_unknown_models(client: TestClient, path: str, name: str) -> None:
    answer = client.get(path.format(name))
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_reload(tmp_path: Path) -> None:
    toy_models.write_levels(tmp_path)
    toy_models.write_oddity(tmp_path)
    with make_client(tmp_path) as client:
        toy_models.write_colours(tmp_path)
        shutil.rmtree(tmp_path / "oddity")
        (tmp_path / "levels" / "encoder.onnx").write_bytes(b"")
        answer = client.post("/models/reload").json()
        assert answer["loaded"] == ["colours"]
        assert answer["kept"] == ["levels"]
        assert answer["removed"] == ["oddity"]
        (refused,) = answer["refused"]
        assert refused["name"] == "levels"
        assert "'encoder.onnx' has 0 bytes" in refused["reason"]
        # The version before the refused one is still served.
        assert client.post("/decode?model=levels", json={"codes": [[1]]}).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("host", "allowed"),
    [("127.0.0.1", True), ("::1", True), ("127.8.9.1", True), ("192.0.2.7", False), ("elsewhere", False)],
)
def test_only_clients_on_the_same_machine_reload(exported: Path, host: str, allowed: bool) -> None:
    with make_client(exported, host=host) as client:
        answer = client.post("/models/reload")
        if allowed:
            assert answer.status_code == 200
        else:
            problem(answer, 403, "not-local")


def test_a_reload_without_the_folder_changes_nothing(tmp_path: Path) -> None:
    toy_models.write_levels(tmp_path / "models")
    with make_client(tmp_path / "models") as client:
        (tmp_path / "models").rename(tmp_path / "moved")
        answer = client.post("/models/reload")
        problem(answer, 503, "models-unreadable")
        assert str(tmp_path) not in answer.text
        assert client.post("/decode", json={"codes": [[1]]}).status_code == 200
