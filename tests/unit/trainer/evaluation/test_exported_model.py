from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from service.contract import noise
from service.contract.manifest import FILE_NAME, CodesSpec, Input, Operation, Output, Parameter, Role
from service.contract.runner import Array
from service.models.bundle import read_bundle
from service.models.model import BatchLimits
from service.models.validation import load_model
from service.runtime.providers import Provider
from tests.fixtures import continuous_model
from tests.fixtures.tiny_models import Trained
from trainer.data.batches import Batch
from trainer.errors import ExportError
from trainer.evaluation import exported_model as module
from trainer.evaluation.exported_model import ExportedModel, file_entries, open_exported, whole_test

SPEC = CodesSpec(dtype="int32", shape=(2, 3), codebook_size=8, codebook_dim=1)
CODES, IMAGES = Output(name="codes", role=Role.codes), Output(name="images", role=Role.images)
STATES, RATE = Output(name="states", role=Role.states), Output(name="rate", role=Role.figure)
ENCODE = Operation(
    graph="encode",
    inputs=(
        Input(name="images", role=Role.images),
        Input(name="noise", role=Role.normal, shape=(5,), default=0),
    ),
    outputs=(CODES,),
)
DECODE = Operation(graph="decode", inputs=(Input(name="codes", role=Role.codes),), outputs=(IMAGES,))
COMPLETE = Operation(
    graph="complete",
    inputs=(
        Input(name="codes", role=Role.codes),
        Input(name="mask", role=Role.mask),
        Input(name="label", role=Role.label, default=7),
        Input(name="noise", role=Role.uniform, shape=(2, 3)),
        Input(name="heat", role=Role.parameter),
    ),
    outputs=(CODES,),
    parameters={"heat": Parameter(dtype="float32", default=0.5, minimum=0, maximum=2)},
)
CHAIN = Operation(
    graph="chain",
    inputs=(
        Input(name="noise", role=Role.normal, shape=("steps", 5)),
        Input(name="steps", role=Role.parameter),
    ),
    outputs=(STATES, CODES, RATE),
    parameters={"steps": Parameter(dtype="int64", default=3, minimum=1, maximum=10**7)},
)
INTERPOLATE = Operation(
    graph="interpolate",
    inputs=(
        Input(name="codes", role=Role.codes),
        Input(name="target", role=Role.target),
        Input(name="fraction", role=Role.fraction),
    ),
    outputs=(CODES,),
)
OPERATIONS = {
    "encode": ENCODE,
    "decode": DECODE,
    "sample/complete": COMPLETE,
    "sample/chain": CHAIN,
    "sample/interpolate": INTERPOLATE,
}


class Graphs:
    """Instead of ONNX Runtime: remembers what it was fed, and counts the rows it gives.

    Codes are the number of the row, images the codes of the row, figures ten times the number.
    """

    def __init__(self, codes: CodesSpec = SPEC) -> None:
        self.codes, self.fed = codes, list[tuple[str, Mapping[str, Array]]]()
        self.drawn = 0

    def __getitem__(self, file: str) -> "Graph":
        return Graph(self, file)


@dataclass(frozen=True)
class Graph:
    graphs: Graphs
    file: str

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
        graphs = self.graphs
        graphs.fed.append((self.file, feeds))
        if self.file == "decode":
            first = feeds["codes"].reshape(len(feeds["codes"]), -1)[:, 0]
            return [first.astype(np.uint8)[:, None, None, None].repeat(2, axis=1)]
        rows = len(next(array for array in feeds.values() if array.ndim))
        numbers = np.arange(graphs.drawn, graphs.drawn + rows)
        graphs.drawn += rows
        codes = np.zeros((rows, *graphs.codes.shape), graphs.codes.dtype)
        codes += numbers.reshape(-1, *[1] * len(graphs.codes.shape)).astype(codes.dtype)
        made = {"codes": codes, "states": codes[:, None] + 100, "rate": numbers.astype(np.float32) * 10}
        return [made[name] for name in outputs]


@pytest.fixture
def graphs() -> Graphs:
    return Graphs()


@pytest.fixture
def model(graphs: Graphs) -> ExportedModel:
    return ExportedModel(graphs, OPERATIONS, graphs.codes)


def test_what_goes_towards_a_target_is_no_sampler(model: ExportedModel) -> None:
    assert model.samplers == ["sample/complete", "sample/chain"]


def test_reconstructions_are_those_of_the_service_without_a_seed(
    model: ExportedModel, graphs: Graphs
) -> None:
    batches = [Batch(torch.full((rows, 1, 4, 4), rows, dtype=torch.uint8), None) for rows in (3, 2)]
    found = list(model.reconstruct(batches))
    assert [file for file, _ in graphs.fed] == ["encode", "decode"] * 2
    assert [fed["noise"].tolist() for file, fed in graphs.fed if file == "encode"] == [
        [[0] * 5] * 3,
        [[0] * 5] * 2,
    ]
    assert [batch.images.unique().tolist() for batch in found] == [[3], [2]]
    assert [batch.codes[:, 0, 0].tolist() for batch in found] == [[0, 1, 2], [3, 4]]
    assert [batch.decoded[:, 0, 0, 0].tolist() for batch in found] == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize(("given", "steps"), [(None, 3), ({}, 3), ({"steps": 8.0}, 8)])
def test_values_go_over_the_defaults(
    model: ExportedModel, graphs: Graphs, given: dict[str, float] | None, steps: int
) -> None:
    outputs = model.run(["sample/chain"], range(2), {}, values=given)
    fed = graphs.fed[0][1]
    assert (int(fed["steps"]), fed["noise"].shape) == (steps, (2, steps, 5))
    assert outputs.arrays.keys() == {Role.states, Role.codes}
    assert outputs.figures["rate"].tolist() == [0, 10]


def test_the_noise_is_that_of_the_service(model: ExportedModel, graphs: Graphs) -> None:
    model.run(["sample/chain"], range(4, 6), {}, seed=9)
    stream = noise.stream("sample/chain", "noise")
    assert np.array_equal(graphs.fed[0][1]["noise"], noise.normal(9, range(4, 6), stream, (3, 5)))


def test_samples_go_in_parts_and_codes_are_decoded(
    model: ExportedModel, graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    outputs = model.sample("sample/complete", 10, 3, torch.arange(10))
    assert [file for file, _ in graphs.fed] == ["complete", "decode"] * 3
    drawn = [fed for file, fed in graphs.fed if file == "complete"]
    assert [fed["label"].tolist() for fed in drawn] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert outputs.arrays[Role.images][:, 0, 0, 0].tolist() == list(range(10))
    whole = noise.uniform(3, range(10), noise.stream("sample/complete", "noise"), (2, 3))
    assert np.array_equal(np.concatenate([fed["noise"] for fed in drawn]), whole)


def test_the_noise_of_a_chain_is_bounded(model: ExportedModel, graphs: Graphs) -> None:
    steps = module.MOST_VALUES // 5 // 2
    outputs = model.sample("sample/chain", 5, 0, values={"steps": steps})
    rows = [len(fed["noise"]) for file, fed in graphs.fed if file == "chain"]
    assert rows == [2, 2, 1]
    assert outputs.figures["rate"].tolist() == [0, 10, 20, 30, 40]
    # A row that is too large alone still goes.
    graphs.fed.clear()
    model.sample("sample/chain", 2, 0, values={"steps": 3 * steps})
    assert [len(fed["noise"]) for file, fed in graphs.fed if file == "chain"] == [1, 1]


def test_a_graph_that_loses_rows_is_an_error() -> None:
    class Losing(Graphs):
        def __getitem__(self, file: str) -> "Graph":
            return Fewer(self, file)

    class Fewer(Graph):
        def run(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> Sequence[Array]:
            return [array[:1] for array in super().run(feeds, outputs)]

    with pytest.raises(ExportError, match="operation 'sample/chain' gave 1 rows of states for 2"):
        ExportedModel(Losing(), OPERATIONS, SPEC).run(["sample/chain"], range(2), {})


def test_a_published_folder_reconstructs_as_the_model_in_torch(trained: Trained) -> None:
    model, manifest = open_exported(trained.exported.folder)
    assert manifest == trained.exported.manifest
    with whole_test(trained.dataset) as batches:
        (found,) = model.reconstruct(batches.ordered())
    originals = found.images.permute(0, 3, 1, 2)
    difference = trained.model.reconstruct(originals).int() - found.decoded.permute(0, 3, 1, 2).int()
    assert float((difference.abs() <= 1).double().mean()) > 0.99
    assert found.codes.shape == (100, 7, 7)


def test_what_is_measured_is_what_is_served(tmp_path: Path) -> None:
    folder = continuous_model.write(tmp_path)
    model, manifest = open_exported(folder)
    provider = Provider("cpu", "a test asks for it", 1)
    served = load_model(read_bundle(folder), provider, BatchLimits(rows=3))
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    for names, defaults in (
        (("encode", "decode"), ("encode",)),
        (("score",), ()),
        (("sample/stroll", "decode"), ()),
    ):
        given = {} if names[0].startswith("sample/") else {Role.images: images}
        pipeline = served.pipeline_of(*names)
        values = pipeline.defaults
        expected = served.run(pipeline, given, 5, values, 11, defaults)
        tensors = {role: torch.from_numpy(array) for role, array in given.items()}
        found = model.run(names, range(5), tensors, 11, default_noise=defaults)
        assert found.arrays.keys() == expected.arrays.keys()
        for role, array in expected.arrays.items():
            np.testing.assert_allclose(found.arrays[role].numpy(), array, rtol=1e-6)
        assert found.figures.keys() == expected.figures.keys()
        for name, figure in expected.figures.items():
            np.testing.assert_allclose(found.figures[name].numpy(), figure, rtol=1e-6)
    assert manifest.operations.keys() >= {"encode", "score", "sample/stroll"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, r"is no exported model: no manifest\.json can be read in it"),
        ("{}", r"manifest\.json is no manifest: Field required"),
        ("no JSON", r"manifest\.json is no manifest: Invalid JSON"),
    ],
)
def test_what_is_no_exported_folder_is_an_error(tmp_path: Path, content: str | None, complaint: str) -> None:
    if content is not None:
        (tmp_path / FILE_NAME).write_text(content)
    with pytest.raises(ExportError, match=complaint):
        open_exported(tmp_path)


def test_the_files_of_a_folder_are_told_by_content(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"abc")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    entries = file_entries(tmp_path)
    assert list(entries) == ["a", "b"]
    assert entries["b"].size == 3
    # FIPS 180-2, appendix B.1.
    assert entries["b"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
