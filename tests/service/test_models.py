from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service import noise
from service.errors import GraphFailed, ModelRefused, UnknownOperation
from service.folder import read_folder
from service.manifest import CodesSpec, ImageSpec, Input, Operation, Output, Role
from service.models import Batching, Model, load_model
from service.runtime import Graph
from tests.service import handmade, toy
from tests.service.conftest import CPU

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 12, 8, 1), dtype=np.uint8)


def test_encode_and_decode_are_the_graphs(levels: Model) -> None:
    codes = levels.run(levels.chain("encode"), {Role.images: IMAGES}, 7, {})[Role.codes]
    np.testing.assert_array_equal(codes, toy.levels(IMAGES))
    decoded = levels.run(levels.chain("decode"), {Role.codes: codes}, 7, {})[Role.images]
    np.testing.assert_array_equal(decoded, toy.pixels(codes))


def test_reconstruct_is_encode_then_decode(levels: Model) -> None:
    assert levels.chain("reconstruct") == ("encode", "decode")
    results = levels.run(("encode", "decode"), {Role.images: IMAGES}, 7, {})
    np.testing.assert_array_equal(results[Role.codes], toy.levels(IMAGES))
    np.testing.assert_array_equal(results[Role.images], toy.pixels(toy.levels(IMAGES)))


@pytest.mark.parametrize(
    ("batching", "sizes"),
    [
        ({"rows": 3}, [3, 3, 1]),
        ({"pixels": 12 * 8 * 4}, [4, 3]),
        ({"pixels": 1}, [1] * 7),
        ({"rows": 100}, [7]),
    ],
)
def test_pieces_do_not_show(
    load: Callable[..., Model],
    levels: Model,
    batching: dict[str, int],
    sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = load("levels", **batching)
    encoder = small.graphs["encoder.onnx"]
    seen: list[int] = []

    def run(feeds: Any, outputs: Any) -> Any:
        seen.append(len(feeds["images"]))
        return Graph.run(encoder, feeds, outputs)

    monkeypatch.setattr(encoder, "run", run)
    pieces = small.run(("encode", "decode"), {Role.images: IMAGES}, 7, {})
    whole = levels.run(("encode", "decode"), {Role.images: IMAGES}, 7, {})
    for role, array in whole.items():
        np.testing.assert_array_equal(pieces[role], array)
    assert seen == sizes


def test_noise_does_not_depend_on_pieces(load: Callable[..., Model], colours: Model) -> None:
    for chain, values in (
        (("sample/prior",), {"temperature": 1.0}),
        (("sample/walk", "decode"), {"steps": 20}),
    ):
        given = {Role.label: np.arange(10) % 3}
        whole = colours.run(chain, given, 10, values, seed=5)
        pieces = load("colours", rows=3).run(chain, given, 10, values, seed=5)
        np.testing.assert_array_equal(whole[Role.images], pieces[Role.images])
        other = colours.run(chain, given, 10, values, seed=6)
        assert (whole[Role.images] != other[Role.images]).any()


def test_a_noise_axis_may_be_a_parameter(colours: Model) -> None:
    codes = colours.run(("sample/walk",), {}, 2, {"steps": 20}, seed=5)[Role.codes]
    path = noise.uniform(5, range(2), noise.stream("sample/walk", "path"), (20, 3))
    np.testing.assert_allclose(codes, path.mean(axis=1), atol=1e-6)


def test_samples_that_are_codes_alone_are_decoded(colours: Model) -> None:
    assert colours.chain("sample/prior") == ("sample/prior",)
    assert colours.chain("sample/walk") == ("sample/walk", "decode")


def test_roles_suffice_for_an_operation_nobody_has_thought_of(oddity: Model) -> None:
    images = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1)
    given = {Role.images: images, Role.label: np.array([0, 1])}
    results = oddity.run(oddity.chain("mix"), given, 2, {"times": 100}, seed=3)
    expected = images + np.array([0, 100]).reshape(2, 1, 1, 1)
    # The dice are in [0, 1), so they are lost when the graph rounds down.
    np.testing.assert_array_equal(results[Role.images], expected)
    np.testing.assert_array_equal(results[Role.codes], expected.reshape(2, 4))


def test_methods(colours: Model, levels: Model, exported: Path) -> None:
    assert colours.methods == ["prior", "walk"]
    assert colours.sampler(None) == "sample/prior"
    assert colours.sampler("walk") == "sample/walk"
    with pytest.raises(UnknownOperation, match="no method 'wlak'; did you mean 'walk'"):
        colours.sampler("wlak")
    with pytest.raises(UnknownOperation, match="'levels' cannot sample"):
        levels.sampler(None)
    with pytest.raises(UnknownOperation, match="'levels' cannot sample"):
        levels.sampler("prior")


def test_an_operation_the_model_lacks(oddity: Model) -> None:
    with pytest.raises(UnknownOperation, match="'oddity' has no operation 'decode'; did you mean 'encode'"):
        oddity.chain("decode")
    with pytest.raises(UnknownOperation, match="'decode'"):
        oddity.chain("reconstruct")


def folder_with(tmp_path: Path, **changes: object) -> Path:
    """A model of 2 x 2 pixels that says of its one graph what ``changes`` say."""
    path = tmp_path / "wrong"
    path.mkdir()
    image: handmade.Axes = ("n", 2, 2, 1)
    handmade.write_graph(
        path / "g.onnx",
        [
            handmade.node("Cast", ["images"], ["x"], to=1),
            handmade.node("Reshape", ["x", "flat"], ["codes"]),
            handmade.node("Identity", ["images"], ["same"]),
        ],
        {"images": ("uint8", image)},
        {"codes": ("float32", ("n", 4)), "same": ("uint8", image)},
        {"flat": np.array([-1, 4])},
    )
    operation = {
        "graph": "g.onnx",
        "inputs": (Input(name="images", role=Role.images),),
        "outputs": (Output(name="codes", role=Role.codes),),
    }
    handmade.write_manifest(
        path,
        kind="wrong",
        image=changes.pop("image", ImageSpec(channels=1, height=2, width=2)),
        codes=changes.pop("codes", CodesSpec(dtype="float32", shape=(4,))),
        operations={changes.pop("name", "encode"): Operation.model_validate(operation | changes)},
    )
    return path


IMAGES_IN = Input(name="images", role=Role.images)
CODES_OUT = Output(name="codes", role=Role.codes)
CODES_IN = Input(name="codes", role=Role.codes)
MASK_IN = Input(name="mask", role=Role.mask)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"inputs": (Input(name="image", role=Role.images),)},
            r"inputs \['images'\], the manifest says \['image'\]",
        ),
        (
            {"inputs": (IMAGES_IN, Input(name="more", role=Role.normal))},
            r"inputs \['images'\], the manifest says \['images', 'more'\]",
        ),
        (
            {"outputs": (Output(name="code", role=Role.codes),)},
            r"outputs \['codes', 'same'\], the manifest also says \['code'\]",
        ),
        ({"inputs": (Input(name="images", role=Role.codes),)}, "'encode' does not take images"),
        ({"outputs": (Output(name="same", role=Role.images),)}, "'encode' does not give codes"),
        ({"name": "sample/odd"}, "'sample/odd' takes images, which no call has for it"),
        ({"name": "sample/odd", "inputs": (CODES_IN,)}, "'sample/odd' takes codes, which no call has for it"),
        (
            {"name": "sample/odd", "inputs": (IMAGES_IN, CODES_IN, MASK_IN)},
            "'sample/odd' takes images, which no call has for it",
        ),
        (
            {
                "name": "sample/odd",
                "inputs": (CODES_IN, MASK_IN),
                "outputs": (Output(name="same", role=Role.images),),
            },
            "'sample/odd' takes a mask of codes and does not give codes",
        ),
        (
            {
                "name": "decode",
                "inputs": (CODES_IN, MASK_IN),
                "outputs": (Output(name="same", role=Role.images),),
            },
            "'decode' takes mask, which no call has for it",
        ),
        ({"inputs": (IMAGES_IN, CODES_IN, MASK_IN)}, "'encode' takes codes, which no call has for it"),
        ({"outputs": (CODES_OUT, Output(name="same", role=Role.codes))}, "gives a role twice"),
        ({"outputs": (Output(name="same", role=Role.codes),)}, "'same' is .*uint8.* not .*float32"),
        (
            {"name": "other", "inputs": (Input(name="images", role=Role.normal),)},
            "'images' is .*uint8.* not .*float32",
        ),
        (
            {"codes": CodesSpec(dtype="int32", shape=(4,), codebook_size=9)},
            "'codes' is .*float32.* not .*int32",
        ),
        ({"codes": CodesSpec(dtype="float32", shape=(2, 2))}, "rank=2.* not .*rank=3"),
        ({"codes": CodesSpec(dtype="float32", shape=(5,))}, r"gives codes of shape \[1, 4\], not \[1, 5\]"),
        (
            {"image": ImageSpec(channels=1, height=2, width=3)},
            "'encode' fails on an image of",
        ),
        (
            {"image": ImageSpec(channels=1, height=4, width=4)},
            "'encode' fails on an image of",
        ),
    ],
)
def test_a_manifest_that_does_not_fit_its_graph(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    folder = read_folder(folder_with(tmp_path, **changes))
    with pytest.raises(ModelRefused, match=reason):
        load_model(folder, CPU, Batching())


def test_the_helper_of_the_test_above_writes_a_good_folder(tmp_path: Path) -> None:
    assert load_model(read_folder(folder_with(tmp_path)), CPU, Batching()).manifest.name == "wrong"


def test_a_folder_published_anew_while_it_loads_is_not_half_of_each(tmp_path: Path) -> None:
    folder = read_folder(toy.write_levels(tmp_path))
    (tmp_path / "levels").rename(tmp_path / "old")
    toy.write_levels(tmp_path, tint=3)
    with pytest.raises(ModelRefused, match="changed while it was loaded"):
        load_model(folder, CPU, Batching())


def test_a_graph_that_loses_rows_is_noticed(oddity: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = oddity.graphs["encoder.onnx"]
    run = graph.run
    monkeypatch.setattr(graph, "run", lambda feeds, outputs: [array[:1] for array in run(feeds, outputs)])
    with pytest.raises(GraphFailed, match="gave 1 rows of codes for 2"):
        oddity.run(("encode",), {Role.images: np.zeros((2, 2, 2, 1), np.uint8)}, 2, {"spread": 0})
