"""The examples in the docstrings give the results that they show."""

import doctest
import importlib
import os
from collections.abc import Iterator

import pytest

import tessera
from tests.fixtures.processes import ROOT, serving

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    flags = ("--provider=cpu", "--threads=1", "--workers=1", "--default-model=vqvae-mnist")
    with serving(ROOT / "exported", *flags) as url:
        yield url


@pytest.mark.parametrize(
    ("module", "examples"),
    [("interface", 17), ("loading", 2), ("remote.async_client", 2), ("remote.client", 2)],
)
def test_examples(url: str, monkeypatch: pytest.MonkeyPatch, module: str, examples: int) -> None:
    monkeypatch.chdir(ROOT)
    for variable in [name for name in os.environ if name.startswith("TESSERA_")]:
        monkeypatch.delenv(variable)
    names = {
        "tessera": tessera,
        "url": url,
        "model": tessera.load("exported/vqvae-mnist", provider="cpu", threads=1),
        "vae": tessera.load("exported/vae-mnist", provider="cpu", threads=1),
    }
    found = doctest.testmod(importlib.import_module(f"tessera.{module}"), extraglobs=names)
    assert found.failed == 0
    assert found.attempted >= examples
