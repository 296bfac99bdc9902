from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from service.manifest import FILE_NAME, CodesSpec, Input, Operation, Output, Parameter, Role
from tests.trainer.tiny import Trained
from trainer import exported as module
from trainer.errors import ExportError
from trainer.exported import ExportedModel, file_entries, open_exported
from trainer.measures.rows import whole_test

SPEC = CodesSpec(dtype="int32", shape=(2, 3), codebook_size=8, codebook_dim=1)
VECTOR = CodesSpec(dtype="float32", shape=(5,))
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
    """In the place of ONNX Runtime: remembers what it was fed, and counts the rows it gives.

    Codes are the number of the row, images the codes of the row, figures ten times the number.
    """

    def __init__(self, codes: CodesSpec) -> None:
        self.codes, self.fed = codes, list[tuple[str, Mapping[str, Tensor]]]()
        self.drawn = 0

    def run(self, file: str, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Sequence[Tensor]:
        self.fed.append((file, inputs))
        if file == "decode":
            first = inputs["codes"].flatten(1)[:, 0]
            return [first.byte()[:, None, None, None].expand(-1, 2, 2, 1)]
        rows = len(next(tensor for tensor in inputs.values() if tensor.ndim))
        numbers = torch.arange(self.drawn, self.drawn + rows)
        self.drawn += rows
        codes = numbers.int().view(-1, *[1] * len(self.codes.shape)).expand(-1, *self.codes.shape)
        made = {"codes": codes, "states": codes[:, None] + 100, "rate": numbers.float() * 10}
        return [made[name] for name in names]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    graphs = Graphs(SPEC)
    monkeypatch.setattr(module, "ExportedGraphs", lambda _: graphs)
    return graphs


@pytest.fixture
def model(graphs: Graphs) -> ExportedModel:
    return ExportedModel(Path(), OPERATIONS, graphs.codes)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_goes_towards_a_target_is_no_sampler(model: ExportedModel) -> None:
    assert model.samplers == ["sample/complete", "sample/chain"]


def test_noise_with_a_default_stands_still(model: ExportedModel, graphs: Graphs) -> None:
    images = torch.ones(3, 4, 4, 1, dtype=torch.uint8)
    model.run("encode", 3, {Role.images: images}, generator())
    ((_, fed),) = graphs.fed
    assert fed["images"] is images
    assert torch.equal(fed["noise"], torch.zeros(3, 5))


def test_where_codes_could_be_completed_all_are_sampled(model: ExportedModel, graphs: Graphs) -> None:
    model.run("sample/complete", 4, {}, generator())
    ((_, fed),) = graphs.fed
    assert torch.equal(fed["codes"], torch.zeros(4, 2, 3, dtype=torch.int32))
    assert torch.equal(fed["mask"], torch.ones(4, 2, 3, dtype=torch.bool))
    assert torch.equal(fed["label"], torch.full((4,), 7))
    assert fed["noise"].shape == (4, 2, 3)
    assert 0 <= fed["noise"].min() < fed["noise"].max() < 1


def test_vectors_that_are_absent_are_floats(graphs: Graphs) -> None:
    ExportedModel(Path(), OPERATIONS, VECTOR).run("sample/complete", 2, {}, generator())
    ((_, fed),) = graphs.fed
    assert torch.equal(fed["codes"], torch.zeros(2, 5))


def test_a_label_that_is_given_goes_before_the_default(model: ExportedModel, graphs: Graphs) -> None:
    model.run("sample/complete", 2, {Role.label: torch.tensor([3, 1])}, generator())
    assert graphs.fed[0][1]["label"].tolist() == [3, 1]


@pytest.mark.parametrize(("given", "steps"), [(None, 3), ({}, 3), ({"steps": 8.0}, 8)])
def test_parameters_are_scalars_of_their_type_and_shape_the_noise(
    model: ExportedModel, graphs: Graphs, given: dict[str, float] | None, steps: int
) -> None:
    outputs = model.run("sample/chain", 2, {}, generator(), given)
    fed = graphs.fed[0][1]
    assert (fed["steps"].dtype, fed["steps"].shape, int(fed["steps"])) == (torch.int64, (), steps)
    assert fed["noise"].shape == (2, steps, 5)
    assert fed["noise"].min() < 0
    assert outputs.arrays.keys() == {Role.states, Role.codes}
    assert outputs.figures["rate"].tolist() == [0, 10]


def test_a_parameter_may_be_a_float(model: ExportedModel, graphs: Graphs) -> None:
    model.run("sample/complete", 1, {}, generator(), {"heat": 1.25})
    assert graphs.fed[0][1]["heat"].dtype == torch.float32
    assert float(graphs.fed[0][1]["heat"]) == 1.25


def test_what_cannot_be_absent_is_an_error(model: ExportedModel) -> None:
    with pytest.raises(ValueError, match=r"input 'target' needs target, and none was given"):
        model.run("sample/interpolate", 1, {}, generator())


def test_samples_go_in_parts_and_codes_are_decoded(
    model: ExportedModel, graphs: Graphs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 4)
    labels = torch.arange(10)
    outputs = model.sample("sample/complete", 10, generator(), labels)
    assert [file for file, _ in graphs.fed] == ["complete", "decode"] * 3
    asked = [fed["label"].tolist() for file, fed in graphs.fed if file == "complete"]
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert outputs.arrays[Role.images][:, 0, 0, 0].tolist() == list(range(10))


def test_the_noise_of_a_chain_is_bounded(model: ExportedModel, graphs: Graphs) -> None:
    steps = module.MOST_VALUES // 5 // 2
    outputs = model.sample("sample/chain", 5, generator(), values={"steps": steps})
    rows = [len(fed["noise"]) for file, fed in graphs.fed if file == "chain"]
    assert rows == [2, 2, 1]
    assert outputs.figures["rate"].tolist() == [0, 10, 20, 30, 40]
    # A row that is too large alone still goes.
    graphs.fed.clear()
    model.sample("sample/chain", 2, generator(), values={"steps": 3 * steps})
    assert [len(fed["noise"]) for file, fed in graphs.fed if file == "chain"] == [1, 1]


def test_samples_follow_the_generator(model: ExportedModel, graphs: Graphs) -> None:
    for seed in (1, 1, 2):
        model.sample("sample/complete", 3, generator(seed))
    noise = [fed["noise"] for file, fed in graphs.fed if file == "complete"]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])


def test_a_published_folder_reconstructs_as_the_model_in_torch(trained: Trained) -> None:
    model, manifest = open_exported(trained.exported.folder)
    assert manifest == trained.exported.manifest
    with whole_test(trained.dataset) as batches:
        (found,) = model.reconstruct(batches.ordered())
    originals = found.images.permute(0, 3, 1, 2)
    difference = trained.model.reconstruct(originals).int() - found.decoded.permute(0, 3, 1, 2).int()
    assert float((difference.abs() <= 1).double().mean()) > 0.99
    assert found.codes.shape == (100, 7, 7)


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
