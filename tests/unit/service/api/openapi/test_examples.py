from pathlib import Path

import pytest

from service.api.openapi.examples import Examples
from service.models.registry import Registry
from tests.unit.service.conftest import CPU


@pytest.fixture(scope="module")
def examples(exported: Path) -> Examples:
    registry = Registry([exported], CPU, default="patchwork")
    registry.reload()
    return Examples(registry)


def test_the_default_model_is_shown_for_what_it_can_do(examples: Examples) -> None:
    for verb, name in (("encode", "patchwork"), ("score", "wanderer"), ("histogram", "patchwork")):
        (body,) = examples.images(verb).values()
        assert body["model"] == name
    assert examples.path_values("/models/{name}")["name"] == "patchwork"


def test_every_method_of_every_model_is_shown(examples: Examples, exported: Path) -> None:
    bodies = examples.samples("sample")
    shown = {body["method"] for body in bodies.values()}
    registry = Registry([exported], CPU)
    registry.reload()
    assert shown == {method for model in registry.models.values() for method in model.methods}
    assert next(iter(bodies.values()))["model"] == "patchwork"


def test_without_models_there_are_no_examples(tmp_path: Path) -> None:
    examples = Examples(Registry([tmp_path], CPU))
    assert examples.images("encode") == examples.codes("decode") == examples.samples("sample") == {}
    assert examples.tensors("infer") == {}
    assert examples.path_values("/models/{name}") == {}
