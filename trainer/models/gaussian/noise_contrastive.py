"""The classifier between posterior and prior as a stage of training: its loss, its metrics, its samplers."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from service.contract.manifest import Input, Output, Parameter, Role
from trainer.config import NCPConfig, Schedule
from trainer.data.batches import Batch
from trainer.data.distributed import normal, span, summed
from trainer.image_sheets import panels, sheet
from trainer.models.base import Best, SecondStage, Step
from trainer.models.gaussian.energy import Classifier
from trainer.models.gaussian.posterior import Posterior
from trainer.models.graph import Graph, RunGraph
from trainer.models.samplers.langevin import Langevin, Metropolis
from trainer.models.samplers.resampling import Resampling

MOST_STEPS = 2000
MOST_PROPOSALS = 4096
# The best on MNIST. At the bounds of the step size a chain no longer moves, and diverges.
STEPS, STEP_SIZE, PROPOSALS = 200, 0.02, 256
SMALLEST_STEP, LARGEST_STEP = 1e-5, 1.0
COLUMNS, ROWS = 8, 8
CHAINS_FOR_PARITY, STEPS_FOR_PARITY = 16, 50


class ClassifierStage(SecondStage):
    """Trains a ``Classifier`` between codes of the training images and samples of the prior.

    Args:
        config: whose ``classifier_...`` fields say how.
        posterior: uint8 images ``(B, C, H, W)`` to the mean and log-variance of their codes, ``(B, 2 d)``.
        decode: codes, float32 ``(B, d)``, to uint8 images ``(B, C, H, W)``.

    """

    name = "classifier"
    rate_flag = "--classifier-lr"
    best = Best("test_loss")
    shown = MappingProxyType({"prior": "sample/prior", "Langevin": "sample/langevin"})
    plotted = MappingProxyType({"lowest_loss": (None, None)})

    def __init__(
        self,
        config: NCPConfig,
        posterior: Callable[[Tensor], Tensor],
        decode: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.config = config
        self.posterior = posterior
        self.decode = decode
        self.network = Classifier(
            config.latent_dim, config.classifier_width, config.classifier_layers, config.classifier_dropout
        )

    def schedule(self) -> Schedule:
        return self.config.classifier_schedule()

    def inputs(self, images: Tensor) -> Tensor:
        """Mean and log-variance of the codes; each step samples codes from them."""
        return self.posterior(images)

    def forward(self, inputs: Tensor, _labels: Tensor | None = None, /) -> Step:
        """Binary cross-entropy, codes of images against draws of the prior, in nats (2010.02917, eq. 5)."""
        posterior = Posterior(*inputs.chunk(2, dim=1))
        codes = posterior.sample(normal(*posterior.mean.shape, device=inputs.device))
        loss = _cross_entropy(self.network(codes), self.network(normal(*codes.shape, device=codes.device)))
        return Step(loss, {"loss": loss.detach()}, lowest={"lowest_loss": loss.detach()})

    def monitor(self, batches: Iterable[Batch]) -> dict[str, float]:
        """``test_loss`` and ``test_accuracy``, on codes of test images."""
        metrics = self.measure(batches)
        return {f"test_{name.removeprefix('classifier_')}": value for name, value in metrics.items()}

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> dict[str, float]:
        """``classifier_loss`` in nats and ``classifier_accuracy``: log 2 and 1/2 for a guess."""
        generator = torch.Generator().manual_seed(0)
        loss, right, seen = 0.0, 0.0, 0
        for batch in batches:
            posterior = Posterior(*batch.images.chunk(2, dim=1))
            first, size = span(len(batch))
            noise = torch.randn(2, size, posterior.mean.shape[1], generator=generator)
            noise = noise[:, first : first + len(batch)].to(batch.images.device)
            real = self.network(posterior.sample(noise[0]))
            drawn = self.network(noise[1])
            loss += float(_cross_entropy(real, drawn)) * len(batch)
            right += float((real > 0).float().sum() + (drawn <= 0).float().sum()) / 2
            seen += len(batch)
        loss, right, images = summed(loss, right, seen)
        return {"classifier_loss": loss / images, "classifier_accuracy": right / images}

    def pictures(self, batch: Batch) -> Mapping[str, Tensor]:
        """Images of samples of the prior, and of the same samples after Langevin steps."""
        device = batch.images.device
        inputs = [tensor.to(device) for tensor in self._chain_inputs(COLUMNS * ROWS, STEPS).values()]
        codes = Langevin(self.network)(*inputs)[0]
        return {"samples/epoch-{epoch:03}": _compared(self.decode(inputs[0]), self.decode(codes))}

    def graphs(self) -> list[Graph]:
        """``sample/langevin``, ``sample/mala`` and ``sample/sir``."""
        dim = self.config.latent_dim
        chain = self._chain_inputs(2, 3)
        step = {"step_size": _step_size(), "every": _every()}
        start = Input(name="start", role=Role.normal, shape=(dim,))
        noise = Input(name="noise", role=Role.normal, shape=("steps", dim))
        scalars = (Input(name="step_size", role=Role.parameter), Input(name="every", role=Role.parameter))
        outputs = (
            Output(name="codes", role=Role.codes),
            Output(name="states", role=Role.states),
            Output(name="energy", role=Role.figure),
        )
        batch, steps = {0: "n"}, {0: "n", 1: "steps"}
        return [
            Graph(
                operation="sample/langevin",
                file="sample_langevin.onnx",
                module=Langevin(self.network),
                examples=tuple(chain.values()),
                axes=(batch, steps, {}, {}),
                inputs=(start, noise, *scalars),
                outputs=outputs,
                description="Langevin dynamics down the energy of the noise contrastive prior, from a draw "
                "of the prior.",
                parameters={"steps": _steps()} | step,
            ),
            Graph(
                operation="sample/mala",
                file="sample_mala.onnx",
                module=Metropolis(self.network),
                examples=tuple(self._metropolis_inputs(2, 3).values()),
                axes=(batch, steps, steps, {}, {}),
                inputs=(start, noise, Input(name="uniform", role=Role.uniform, shape=("steps",)), *scalars),
                outputs=(*outputs, Output(name="acceptance_rate", role=Role.figure)),
                description="The same with a Metropolis correction of each step, which takes the bias away.",
                parameters={"steps": _steps()} | step,
            ),
            Graph(
                operation="sample/sir",
                file="sample_sir.onnx",
                module=Resampling(self.network),
                examples=(torch.randn(2, 3, dim), torch.rand(2)),
                axes=({0: "n", 1: "proposals"}, batch),
                inputs=(
                    Input(name="draws", role=Role.normal, shape=("proposals", dim)),
                    Input(name="uniform", role=Role.uniform),
                ),
                outputs=(
                    Output(name="codes", role=Role.codes),
                    Output(name="effective_proposals", role=Role.figure),
                ),
                description="Sampling importance resampling: of many draws from the prior, one by the "
                "energy's weights.",
                parameters={
                    "proposals": Parameter(
                        dtype="int64",
                        default=PROPOSALS,
                        minimum=1,
                        maximum=MOST_PROPOSALS,
                        description="Draws from the prior for each sample.",
                    )
                },
            ),
        ]

    @torch.no_grad()
    def parity(self, graphs: Sequence[Graph], run: RunGraph) -> float:
        """Run the samplers' graphs; the largest gap between a state and torch's after the same one before."""
        langevin, metropolis, resampling = graphs
        chain = self._chain_inputs(CHAINS_FOR_PARITY, STEPS_FOR_PARITY, every=1)
        corrected = self._metropolis_inputs(CHAINS_FOR_PARITY, STEPS_FOR_PARITY, every=1)
        generator = torch.Generator().manual_seed(1)
        draws = torch.randn(CHAINS_FOR_PARITY, PROPOSALS, self.config.latent_dim, generator=generator)
        proposals = {"draws": draws, "uniform": torch.rand(CHAINS_FOR_PARITY, generator=generator)}
        chains = [
            (Langevin(self.network), chain, run(langevin, chain)),
            (Metropolis(self.network), corrected, run(metropolis, corrected)),
        ]
        gaps = [sampler.gap(tuple(given.values()), found[1]) for sampler, given, found in chains]
        # The codes are the last of the states.
        gaps += [float((found[0] - found[1][:, -1]).abs().max()) for _, _, found in chains]
        gaps += [Resampling(self.network).gap((draws, proposals["uniform"]), run(resampling, proposals)[0])]
        # Unlike max(), this keeps a gap that is not a number.
        return float(torch.tensor(gaps).max())

    def _chain_inputs(self, count: int, steps: int, *, every: int = 0) -> dict[str, Tensor]:
        """The inputs of ``sample/langevin``, with noise from a fixed seed."""
        generator, dim = torch.Generator().manual_seed(0), self.config.latent_dim
        return {
            "start": torch.randn(count, dim, generator=generator),
            "noise": torch.randn(count, steps, dim, generator=generator),
            "step_size": torch.tensor(STEP_SIZE),
            "every": torch.tensor(every),
        }

    def _metropolis_inputs(self, count: int, steps: int, *, every: int = 0) -> dict[str, Tensor]:
        """The inputs of ``sample/mala``, with noise from a fixed seed."""
        uniform = torch.rand(count, steps, generator=torch.Generator().manual_seed(2))
        chain = self._chain_inputs(count, steps, every=every)
        first = {name: chain.pop(name) for name in ("start", "noise")}
        return first | {"uniform": uniform} | chain


def _cross_entropy(real: Tensor, drawn: Tensor) -> Tensor:
    """Of logits ``(B,)`` of codes of images and of draws of the prior: the mean over both."""
    return (F.softplus(-real).mean() + F.softplus(drawn).mean()) / 2


def _compared(prior: Tensor, langevin: Tensor) -> Tensor:
    return panels({"prior": sheet(prior, COLUMNS), "Langevin": sheet(langevin, COLUMNS)})


def _steps() -> Parameter:
    return Parameter(
        dtype="int64", default=STEPS, minimum=1, maximum=MOST_STEPS, description="Steps of the chain."
    )


def _step_size() -> Parameter:
    return Parameter(
        dtype="float32",
        default=STEP_SIZE,
        minimum=SMALLEST_STEP,
        maximum=LARGEST_STEP,
        description="Epsilon: a step is epsilon / 2 down the energy, and noise of variance epsilon.",
    )


def _every() -> Parameter:
    return Parameter(
        dtype="int64",
        default=0,
        minimum=0,
        maximum=MOST_STEPS,
        description="Return every n-th state of the chain too; 0 returns none.",
    )
