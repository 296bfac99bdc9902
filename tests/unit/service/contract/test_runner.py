from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.contract import noise
from service.contract.manifest import CodesSpec, Input, Operation, Output, Parameter, Role
from service.contract.runner import (
    Array,
    BatchSlice,
    Runner,
    WrongOutput,
    default_noise,
    noise_shape,
    parameters_of,
)

GRID = CodesSpec(dtype="int32", shape=(2, 3), codebook_size=8, codebook_dim=1)
CODES, IMAGES = Output(name="codes", role=Role.codes), Output(name="images", role=Role.images)
HEAT = Parameter(dtype="float32", default=0.5, minimum=0, maximum=2)
STEPS = Parameter(dtype="int64", default=3, minimum=1, maximum=9)
OPERATIONS = {
    "encode": Operation(
        graph="encode.onnx",
        inputs=(
            Input(name="pictures", role=Role.images),
            Input(name="fixed", role=Role.normal, shape=(5,), default=0),
            Input(name="seeded", role=Role.uniform, shape=(4,), default_seed=7),
            Input(name="drawn", role=Role.normal, shape=("steps", 2)),
        ),
        outputs=(CODES, Output(name="length", role=Role.figure)),
        parameters={"steps": STEPS},
    ),
    "decode": Operation(
        graph="decode.onnx", inputs=(Input(name="grid", role=Role.codes),), outputs=(IMAGES,)
    ),
    "sample/complete": Operation(
        graph="complete.onnx",
        inputs=(
            Input(name="codes", role=Role.codes),
            Input(name="mask", role=Role.mask),
            Input(name="label", role=Role.label, default=6),
            Input(name="heat", role=Role.parameter),
            Input(name="steps", role=Role.parameter),
        ),
        outputs=(CODES,),
        parameters={"heat": HEAT, "steps": STEPS.model_copy(update={"default": 2})},
    ),
}
PICTURES = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)


@dataclass
class OnDevice:
    """A tensor on a device that counts its copies to the host."""

    array: Array
    fetches: int = 0

    def __len__(self) -> int:
        return len(self.array)

    def numpy(self) -> Array:
        self.fetches += 1
        return self.array


@dataclass
class Graphs:
    """Graphs that record their feeds; each output holds the numbers of its rows."""

    fed: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    made: list[OnDevice] = field(default_factory=list)
    lost: int = 0

    def __getitem__(self, file: str) -> "Graph":
        return Graph(self, file)


@dataclass
class Graph:
    graphs: Graphs
    file: str

    def run(self, feeds: Mapping[str, Any], outputs: Sequence[str]) -> Sequence[OnDevice]:
        self.graphs.fed[self.file] = feeds
        rows = next(len(value) for value in feeds.values() if isinstance(value, OnDevice) or value.ndim)
        made = [OnDevice(np.arange(rows - self.graphs.lost)) for _ in outputs]
        self.graphs.made += made
        return made


@pytest.fixture
def graphs() -> Graphs:
    return Graphs()


@pytest.fixture
def runner(graphs: Graphs) -> Runner:
    return Runner(OPERATIONS, GRID, graphs)


def batch_slice(start: int, stop: int, seed: int) -> BatchSlice:
    return BatchSlice.of({Role.images: PICTURES}, range(start, stop), seed)


def test_each_slice_gets_its_rows_and_tensors_stay_on_the_device(runner: Runner, graphs: Graphs) -> None:
    slices = [batch_slice(0, 2, seed=1), batch_slice(3, 5, seed=2)]
    results = runner.run(["encode", "decode"], slices, {"steps": 3})
    assert graphs.fed["encode.onnx"]["pictures"].ravel().tolist() == [0, 1, 3, 4]
    # The codes go to the decoder as they are, and are fetched once, at the end.
    assert graphs.fed["decode.onnx"] == {"grid": graphs.made[0]}
    assert [tensor.fetches for tensor in graphs.made] == [1, 1, 1]
    assert [each.arrays.keys() for each in results] == [{Role.images, Role.codes}] * 2
    assert [each.arrays[Role.codes].tolist() for each in results] == [[0, 1], [2, 3]]
    assert [each.figures["length"].tolist() for each in results] == [[0, 1], [2, 3]]


def test_what_was_given_is_not_among_the_results(runner: Runner) -> None:
    (results,) = runner.run(["encode"], [batch_slice(0, 2, seed=1)], {"steps": 3})
    assert results.arrays.keys() == {Role.codes}
    both = results.with_given({Role.images: PICTURES, Role.codes: PICTURES})
    assert both.arrays == {Role.images: PICTURES, Role.codes: results.arrays[Role.codes]}
    assert both.figures is results.figures


def test_noise_follows_from_seed_and_number_and_not_from_the_batch(runner: Runner, graphs: Graphs) -> None:
    runner.run(["encode"], [batch_slice(0, 2, seed=1), batch_slice(3, 5, seed=2)], {"steps": 3})
    stream = noise.stream("encode", "drawn")
    expected = [noise.normal(1, range(2), stream, (3, 2)), noise.normal(2, range(3, 5), stream, (3, 2))]
    np.testing.assert_array_equal(graphs.fed["encode.onnx"]["drawn"], np.concatenate(expected))


@pytest.mark.parametrize("names", [(), ("encode",)])
def test_default_noise_is_for_inputs_that_have_one(
    runner: Runner, graphs: Graphs, names: Sequence[str]
) -> None:
    runner.run(["encode"], [batch_slice(0, 3, seed=1)], {"steps": 3}, names)
    fixed, seeded, drawn = (graphs.fed["encode.onnx"][name] for name in ("fixed", "seeded", "drawn"))
    own = noise.normal(1, range(3), noise.stream("encode", "fixed"), (5,))
    np.testing.assert_array_equal(fixed, np.zeros((3, 5), np.float32) if names else own)
    stream = noise.stream("encode", "seeded")
    one = noise.uniform(7, range(1), stream, (4,)).repeat(3, axis=0)
    np.testing.assert_array_equal(seeded, one if names else noise.uniform(1, range(3), stream, (4,)))
    np.testing.assert_array_equal(drawn, noise.normal(1, range(3), noise.stream("encode", "drawn"), (3, 2)))


def test_absent_inputs_are_filled(runner: Runner, graphs: Graphs) -> None:
    runner.run(["sample/complete"], [BatchSlice({}, range(4), 0)], {"heat": 1.5, "steps": 8.0})
    fed = graphs.fed["complete.onnx"]
    assert {name: (array.dtype, array.shape) for name, array in fed.items()} == {
        "codes": (np.int32, (4, 2, 3)),
        "mask": (np.bool_, (4, 2, 3)),
        "label": (np.int64, (4,)),
        "heat": (np.float32, ()),
        "steps": (np.int64, ()),
    }
    assert not fed["codes"].any()
    assert fed["mask"].all()
    assert fed["label"].tolist() == [6] * 4
    assert (float(fed["heat"]), int(fed["steps"])) == (1.5, 8)


def test_given_inputs_are_not_filled(runner: Runner, graphs: Graphs) -> None:
    given: dict[Role, NDArray[Any]] = {
        Role.codes: np.ones((1, 2, 3), np.int32),
        Role.mask: np.zeros((1, 2, 3), np.bool_),
        Role.label: np.array([3]),
    }
    runner.run(["sample/complete"], [BatchSlice(given, range(1), 0)], {"heat": 1, "steps": 1})
    fed = graphs.fed["complete.onnx"]
    assert all(fed[role] is array for role, array in given.items())


def test_an_input_that_cannot_be_filled_is_an_error(runner: Runner) -> None:
    with pytest.raises(ValueError, match="input 'grid' of operation 'decode' needs codes, and none is given"):
        runner.run(["decode"], [BatchSlice({}, range(1), 0)], {})


def test_a_graph_that_loses_rows_is_noticed(runner: Runner, graphs: Graphs) -> None:
    graphs.lost = 1
    with pytest.raises(WrongOutput, match="operation 'encode' gave 4 rows of codes for 5"):
        runner.run(["encode"], [batch_slice(0, 5, seed=0)], {"steps": 1})


def test_the_first_declaration_of_a_parameter_counts() -> None:
    found = parameters_of([OPERATIONS["encode"], OPERATIONS["sample/complete"]])
    assert {name: parameter.default for name, parameter in found.items()} == {"steps": 3, "heat": 0.5}


def test_an_axis_of_noise_may_be_a_parameter() -> None:
    assert noise_shape(OPERATIONS["encode"].inputs[3], {"steps": 8.0}, GRID.shape) == (8, 2)


def test_noise_may_have_the_shape_of_the_codes_of_the_images() -> None:
    spec = CodesSpec(dtype="float32", shape=(4, 4, 3), stride=2)
    noise = Input(name="noise", role=Role.normal, shape=("codes",), default=0)
    assert (noise.named_axes, noise.rank(3)) == ((), 3)
    encode = Operation(
        graph="encode.onnx", inputs=(Input(name="pictures", role=Role.images), noise), outputs=(CODES,)
    )

    class Given:
        def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
            return [feeds["noise"]]

    runner = Runner({"encode": encode}, spec, {"encode.onnx": Given()})
    images = np.zeros((2, 8, 6, 3), np.uint8)
    (drawn,) = runner.run(["encode"], [BatchSlice({Role.images: images}, range(2), 1)], {})
    assert drawn.arrays[Role.codes].shape == (2, 4, 3, 3)
    assert len(np.unique(drawn.arrays[Role.codes])) == 2 * 4 * 3 * 3
    (plain,) = runner.run(["encode"], [BatchSlice({Role.images: images}, range(2), 1)], {}, ["encode"])
    assert not plain.arrays[Role.codes].any()


def test_noise_without_a_default_has_no_default_noise() -> None:
    with pytest.raises(ValueError, match="input 'drawn' of operation 'encode' has no default noise"):
        default_noise("encode", OPERATIONS["encode"].inputs[3], 1, (3, 2))
