"""Adding an endpoint is a router with its schema, and its name in one tuple."""

from pathlib import Path

import numpy as np
import pytest

from service.api import app
from service.codecs import npy
from tests.fixtures import toy_endpoint, toy_models
from tests.unit.service.conftest import make_client, problem


@pytest.mark.slow
def test_an_endpoint_is_a_router_with_its_schema(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ROUTERS", (*app.ROUTERS, toy_endpoint.router))
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), np.uint8)
    with make_client(exported, default_model="levels") as client:
        response = client.post("/histogram", content=npy.dump(images))
        assert response.status_code == 200
        counts = np.bincount(toy_models.levels(images).ravel(), minlength=toy_models.LEVELS)
        assert response.json()["counts"] == counts.tolist()
        # The errors, the description and the metrics follow.
        problem(client.post("/histogram", content=b"?"), 415, "unsupported-media-type")
        problem(client.post("/histogram?modle=levels", content=npy.dump(images)), 422, "unknown-name")
        document = client.get("/openapi.json").json()
        described = document["paths"]["/histogram"]["post"]
        assert described["operationId"] == "histogram"
        assert set(described["responses"]) >= {"200", "401", "415", "422", "429"}
        assert "counts" in document["components"]["schemas"]["HistogramResponse"]["required"]
        samples = 'tessera_requests_total{method="POST",path="/histogram",status="200",worker="0"} 1.0'
        assert samples in client.get("/metrics").text
