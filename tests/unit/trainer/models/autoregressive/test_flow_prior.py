from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from service.contract.manifest import Input, Output, Role
from trainer.evaluation.exported_model import ExportedGraphs
from trainer.export.onnx_export import write_graphs
from trainer.models.autoregressive.flow_prior import BaseSampler, FlowPrior, FlowSampler, drawn_codes, sampler
from trainer.models.graph import Graph

# Both sum float32 products, in another order.
TOLERANCE = 1e-5
CLASSES = 3


def flow(dim: int = 4, classes: int = CLASSES, *, steps: int = 3) -> FlowPrior:
    """Like a trained prior: each class has another density, and none is normal."""
    torch.manual_seed(0)
    made = FlowPrior(dim, classes, steps=steps, width=6, layers=2).requires_grad_(False)
    for parameter in made.parameters():
        parameter.add_(0.4 * torch.randn_like(parameter))
    return made.eval()


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(
    prior: FlowPrior, count: int, *, temperature: float = 1.0, label: int | None = None
) -> dict[str, Tensor]:
    """The inputs of a sampler by name; the codes are of all classes in turn, and of none, if not of one."""
    made = {"noise": normals(count, prior.dim), "code_temperature": torch.tensor(temperature)}
    if prior.classes:
        in_turn = torch.arange(count) % (prior.classes + 1)
        made["label"] = in_turn if label is None else torch.full((count,), label)
    return made


def draw(prior: FlowPrior, given: Mapping[str, Tensor]) -> Tensor:
    (codes,) = sampler(prior)(*given.values())
    assert codes.shape == given["noise"].shape
    return codes


def through(prior: FlowPrior, codes: Tensor, labels: Tensor) -> Tensor:
    """What the steps make of codes: u of z."""
    for step, context in zip(prior.steps, prior.contexts, strict=True):
        codes = codes - step(codes, context(labels))
    return codes


def base(prior: FlowPrior, labels: Tensor) -> Normal:
    return Normal(prior.mean(labels), prior.log_scale(labels).exp())


# The density.


def test_a_new_prior_is_standard_normal_whatever_the_class() -> None:
    prior, codes = FlowPrior(4, CLASSES, steps=2, width=6, layers=2), normals(8, 4)
    expected = Normal(0.0, 1.0).log_prob(codes)
    torch.testing.assert_close(prior.log_probs(codes, torch.arange(8) % 4), expected)


@pytest.mark.parametrize("label", [0, CLASSES])
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("dim", [1, 2])
def test_the_density_integrates_to_one(dim: int, steps: int, label: int) -> None:
    prior, places = flow(dim, steps=steps), torch.linspace(-15, 15, 301)
    codes = torch.cartesian_prod(*[places] * dim).view(-1, dim)
    density = prior.log_probs(codes, torch.full((len(codes),), label)).sum(dim=1).double().exp()
    total = density.sum() * float(places[1] - places[0]) ** dim
    # The sum is exact but for what is beyond the edges: the density is smooth, and 0 there.
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_steps_keep_volumes(steps: int) -> None:
    prior, label = flow(5, steps=steps).double(), torch.tensor([1])
    for codes in normals(6, 1, 5).double():
        jacobian = torch.func.jacrev(lambda z: through(prior, z, label))(codes)[0, :, 0]
        assert float(torch.linalg.det(jacobian)) == pytest.approx(1, abs=1e-10)
        assert (jacobian - torch.eye(5)).abs().max() > 0.1


@pytest.mark.parametrize("steps", [0, 3])
def test_the_density_is_that_of_the_base_where_the_steps_lead(steps: int) -> None:
    prior, codes, labels = flow(steps=steps), normals(8, 4), torch.arange(8) % 4
    expected = base(prior, labels).log_prob(through(prior, codes, labels))
    torch.testing.assert_close(prior.log_probs(codes, labels), expected, rtol=1e-4, atol=1e-4)


def test_each_class_and_no_label_have_a_density_and_draws_of_their_own() -> None:
    prior, codes = flow(), normals(5, 4)
    densities = [prior.log_probs(codes, torch.full((5,), label)) for label in range(CLASSES + 1)]
    draws = [draw(prior, inputs(prior, 5, label=label)) for label in range(CLASSES + 1)]
    for found in (densities, draws):
        for one, other in combinations(found, 2):
            assert (one - other).abs().amax(dim=1).min() > 1e-3


# Draws.


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(("dim", "steps"), [(1, 1), (1, 2), (4, 0), (4, 1), (4, 2), (5, 3), (9, 2)])
def test_the_sampler_undoes_the_steps(dim: int, steps: int, temperature: float) -> None:
    prior = flow(dim, steps=steps).double()
    given = inputs(prior, 12, temperature=temperature)
    given["noise"] = given["noise"].double()
    found = through(prior, draw(prior, given), given["label"])
    of_base = base(prior, given["label"])
    expected = of_base.mean + of_base.stddev * temperature * given["noise"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_no_label_stands_for_any_class_and_is_none_of_them() -> None:
    prior = flow()
    assert prior.no_label == CLASSES
    labels = [0, prior.no_label]
    before = [draw(prior, inputs(prior, 5, label=label)) for label in labels]
    for embedding in (prior.mean, prior.log_scale, *prior.contexts):
        embedding.get_parameter("weight")[:CLASSES] += 1
    of_class, of_none = (draw(prior, inputs(prior, 5, label=label)) for label in labels)
    assert torch.equal(of_none, before[1])
    assert not torch.isclose(of_class, before[0]).any()


def test_without_steps_the_prior_is_its_base() -> None:
    prior = flow(steps=0)
    assert isinstance(sampler(prior), BaseSampler)
    assert isinstance(sampler(flow(steps=1)), FlowSampler)
    given = inputs(prior, 8, temperature=0.7)
    of_base = base(prior, given["label"])
    torch.testing.assert_close(draw(prior, given), of_base.mean + of_base.stddev * 0.7 * given["noise"])


@pytest.mark.parametrize("steps", [0, 3])
def test_at_temperature_0_every_noise_draws_what_no_noise_does(steps: int) -> None:
    prior = flow(steps=steps)
    cold, still = inputs(prior, 8, temperature=0.0), inputs(prior, 8)
    still["noise"] = torch.zeros(8, 4)
    assert torch.equal(draw(prior, cold), draw(prior, still))


@pytest.mark.parametrize("steps", [0, 2])
def test_without_classes_no_labels_are_asked_for(steps: int) -> None:
    prior = flow(classes=0, steps=steps)
    assert prior.no_label == 0
    given = inputs(prior, 6)
    assert [*given] == ["noise", "code_temperature"]
    labels = torch.zeros(6).long()
    expected = base(prior, labels).mean + base(prior, labels).stddev * given["noise"]
    torch.testing.assert_close(through(prior, draw(prior, given), labels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("classes", [0, CLASSES])
def test_codes_of_noise_are_draws_of_the_sampler(classes: int) -> None:
    prior = flow(classes=classes)
    given, any_label = inputs(prior, 6, temperature=0.7), torch.zeros(6).long()
    codes = drawn_codes(prior, given["noise"], given.get("label", any_label), 0.7)
    assert torch.equal(codes, draw(prior, given))


@pytest.mark.parametrize("steps", [0, 3])
def test_a_draw_does_not_hang_on_the_others_in_its_batch(steps: int) -> None:
    prior = flow(steps=steps)
    given = inputs(prior, 8)
    together = draw(prior, given)
    noise, labels = normals(8, 4, seed=1), (given["label"] + 1) % 4
    noise[3], labels[3] = given["noise"][3], given["label"][3]
    others = draw(prior, given | {"noise": noise, "label": labels})
    assert torch.equal(others[3], together[3])
    assert not torch.isclose(others, together).all(dim=1)[[0, 1, 2, 4, 5, 6, 7]].any()


# From here on: the graphs in ONNX Runtime against torch.


def graph_of(prior: FlowPrior) -> Graph:
    examples = inputs(prior, 2)
    roles = {"noise": Role.normal, "code_temperature": Role.parameter, "label": Role.label}
    return Graph(
        operation="sample/prior",
        file="sample_prior.onnx",
        module=sampler(prior),
        examples=tuple(examples.values()),
        axes=tuple({0: "n"} if tensor.dim() else {} for tensor in examples.values()),
        inputs=tuple(Input(name=name, role=roles[name]) for name in examples),
        outputs=(Output(name="codes", role=Role.codes),),
        description="",
    )


def assert_draws_the_same(graph: Graph, run: ExportedGraphs, given: Mapping[str, Tensor]) -> None:
    (codes,) = run(graph, given)
    (expected,) = graph.module(*given.values())
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, ExportedGraphs]:
    folder, graph = tmp_path_factory.mktemp("flow"), graph_of(flow())
    write_graphs([graph], folder)
    return graph, ExportedGraphs(folder, threads=1)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("label", [None, 1])
def test_the_graph_draws_what_torch_does(
    exported: tuple[Graph, ExportedGraphs], count: int, temperature: float, label: int | None
) -> None:
    assert_draws_the_same(*exported, inputs(flow(), count, temperature=temperature, label=label))


@pytest.mark.slow
def test_the_graph_without_steps_and_classes_draws_what_torch_does(tmp_path: Path) -> None:
    prior = flow(classes=0, steps=0)
    graph = graph_of(prior)
    write_graphs([graph], tmp_path)
    run = ExportedGraphs(tmp_path, threads=1)
    for count in (1, 2, 5):
        assert_draws_the_same(graph, run, inputs(prior, count, temperature=0.7))
