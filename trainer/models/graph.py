"""An ONNX graph to be exported: its module, inputs and outputs, and the operation that it becomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor, nn

from service.contract.manifest import Input, Operation, Output, Parameter, Tiling


@dataclass(frozen=True)
class Graph:
    """One ONNX graph to be exported.

    ``module`` takes the tensors of ``examples`` in order and gives the ``outputs`` in order; a ``Chain``
    becomes a loop. ``axes`` names the axes of each input that may vary; ``"4*h"`` is an axis that is a
    multiple of 4. ``parameters`` are those of the inputs that have this role. A graph between images and
    codes has a ``tiling``, or says why it is ``untiled``. ``provider_modules``, by provider, compute the same
    in the way that is quickest there; each becomes a graph of its own, one of ``variants``.
    """

    operation: str
    file: str
    module: nn.Module
    examples: tuple[Tensor, ...]
    axes: tuple[Mapping[int, str], ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]
    description: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    tiling: Tiling | None = None
    untiled: str | None = None
    provider_modules: Mapping[str, nn.Module] = field(default_factory=dict)

    @property
    def variants(self) -> Mapping[str, "Graph"]:
        """The graphs of ``provider_modules`` by provider, such as ``encoder.cuda.onnx``."""
        return {
            provider: replace(
                self,
                file=f"{self.file.removesuffix('.onnx')}.{provider}.onnx",
                module=module,
                provider_modules={},
            )
            for provider, module in self.provider_modules.items()
        }

    def as_operation(self) -> Operation:
        """The entry of the graph in the manifest."""
        return Operation(
            graph=self.file,
            provider_graphs={provider: graph.file for provider, graph in self.variants.items()},
            inputs=self.inputs,
            outputs=self.outputs,
            parameters=dict(self.parameters),
            description=self.description,
            tiling=self.tiling,
            untiled=self.untiled,
        )


def example_size(size: int, unit: int = 1) -> int:
    """The size in an example of an axis that varies by ``unit``: at least two units.

    torch.export takes an axis of one unit for one that never varies.
    """
    return max(size, 2 * unit)


# Runs an exported graph: its inputs by name to its outputs in order.
RunGraph = Callable[[Graph, Mapping[str, Tensor]], Sequence[Tensor]]
