from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx2 import Response

from service.api.app import App, create_app
from service.models.bundle import read_bundle
from service.models.model import BatchLimits, ServedModel
from service.models.validation import load_model
from service.runtime.providers import Provider
from service.settings import Settings
from tests.fixtures import completion_model, continuous_model, toy_models

CPU = Provider("cpu", "a test asks for it", 1)


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in Settings.model_fields:
            patch.delenv(f"TESSERA_{name.upper()}", raising=False)
        yield


@pytest.fixture
def seven() -> bytes:
    return (Path(__file__).parents[2] / "fixtures" / "seven.png").read_bytes()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy models; tests that change them write their own."""
    folder = tmp_path_factory.mktemp("exported")
    toy_models.write_levels(folder)
    toy_models.write_colours(folder)
    toy_models.write_oddity(folder)
    completion_model.write(folder)
    continuous_model.write(folder)
    return folder


@pytest.fixture(scope="session")
def load(exported: Path) -> Callable[..., ServedModel]:
    """Loads a toy model with the given batch limits."""

    def load(name: str, **batching: int) -> ServedModel:
        return load_model(read_bundle(exported / name), CPU, BatchLimits(**batching))

    return load


@pytest.fixture(scope="session")
def levels(load: Callable[..., ServedModel]) -> ServedModel:
    return load("levels")


@pytest.fixture(scope="session")
def colours(load: Callable[..., ServedModel]) -> ServedModel:
    return load("colours")


@pytest.fixture(scope="session")
def oddity(load: Callable[..., ServedModel]) -> ServedModel:
    return load("oddity")


@pytest.fixture(scope="session")
def quilt(load: Callable[..., ServedModel]) -> ServedModel:
    return load("patchwork")


@pytest.fixture(scope="session")
def wandering(load: Callable[..., ServedModel]) -> ServedModel:
    return load("wanderer")


class ServiceClient(TestClient):
    """A client of an app that has its ``context`` at hand."""

    def __init__(self, app: App, **options: Any) -> None:
        super().__init__(app.asgi, **options)
        self.context = app.context


def make_client(models: Path, *, host: str = "127.0.0.1", **settings: object) -> ServiceClient:
    """A client of an app of its own, that seems to call from ``host``."""
    given = {"provider": "cpu", "threads": 1, **settings}
    chosen = Settings(models=models, **given)  # type: ignore[arg-type]  # pydantic checks them
    return ServiceClient(
        create_app(chosen),
        base_url="http://localhost:8000",
        client=(host, 50000),
        raise_server_exceptions=False,
    )


@pytest.fixture(scope="session")
def client(exported: Path) -> Iterator[ServiceClient]:
    """A client of all toy models; ``levels`` is the default."""
    with make_client(exported, default_model="levels") as client:
        yield client


def problem(response: Response, status: int, kind: str) -> dict[str, Any]:
    """The problem in a response, which must be one of this status and type."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == ("about:blank" if kind == "about:blank" else f"urn:tessera:{kind}")
    assert document["status"] == status
    assert {"title", "detail", "instance"} <= document.keys()
    assert "Traceback" not in response.text
    return document
