"""A served model: its graphs, and the one way to run them, by role.

The service knows roles, not kinds of models. An *operation* of the manifest is run by filling the inputs of
its graph by role and returning its outputs by role; operations are chained by handing the outputs of one to
the next. To encode, decode, reconstruct or sample is to run a chain:

    encode             encode
    decode             decode
    reconstruct        reconstruct if the model has it, else encode, decode
    sample/METHOD      sample/METHOD, and decode if that gives codes alone
    score              score

A method that takes codes and a mask samples the codes where the mask is True and keeps the others. Who gives
neither has all of them sampled: the mask is then True everywhere. A method that takes codes and a target goes
from the ones to the other.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from service.batching.entries import joined
from service.contract.manifest import Manifest, Role
from service.contract.runner import Arrays, Part, Results, Runner, WrongOutput
from service.errors import GraphFailed, UnknownOperation, did_you_mean, quoted, unknown
from service.models.bundle import Folder
from service.models.pipeline import Number, Operations
from service.runtime.providers import Provider
from service.runtime.session import Graph

SAMPLE = "sample/"
DEFAULT_METHOD = "prior"


@dataclass(frozen=True)
class Batching:
    """How much goes through a graph at once: at most so many rows, and so many pixels of images."""

    rows: int = 64
    pixels: int = 2**20

    @classmethod
    def on(cls, provider: Provider, rows: int = 0, pixels: int = 0) -> "Batching":
        """What suits a provider, where a number is 0.

        On a CPU two images of 128x128 at once are as quick as one, and more take memory and are slower; but
        of images that are drawn pixel by pixel 128 take 0.83 of the time of 41 a row. On a GPU 512 images of
        28x28 at once are three times as quick as 64 and 64 again.
        """
        suits = (128, 2**15) if provider.name == "cpu" else (512, 2**20)
        return cls(rows or suits[0], pixels or suits[1])


@dataclass(frozen=True, eq=False)
class Model:
    """A model that is served."""

    folder: Folder
    provider: Provider
    graphs: Mapping[str, Graph]
    batching: Batching = Batching()
    _operations: dict[tuple[str, ...], Operations] = field(default_factory=dict, init=False, repr=False)

    @property
    def manifest(self) -> Manifest:
        """What the model is."""
        return self.folder.manifest

    @property
    def methods(self) -> list[str]:
        """The ways to sample."""
        names = self.manifest.operations
        return sorted(name.removeprefix(SAMPLE) for name in names if name.startswith(SAMPLE))

    def methods_that_take(self, role: Role) -> list[str]:
        """The ways to sample that keep some codes (by a ``mask``), or go towards others (a ``target``)."""
        operations = self.manifest.operations
        return [method for method in self.methods if operations[SAMPLE + method].takes(role)]

    def chain(self, verb: str) -> tuple[str, ...]:
        """The operations behind ``encode``, ``decode``, ``reconstruct`` or ``sample/METHOD``, in order.

        Raises UnknownOperation if the model lacks one of them.
        """
        operations = self.manifest.operations
        names: tuple[str, ...] = (verb,)
        if verb == "reconstruct" and verb not in operations:
            names = ("encode", "decode")
        elif verb in operations and verb.startswith(SAMPLE) and not operations[verb].gives(Role.images):
            names = (verb, "decode")
        for name in names:
            if name not in operations:
                known = sorted(operations)
                hint = f"model {self.manifest.name!r} has {', '.join(known)}"
                raise unknown("operation ", name, known, UnknownOperation, hint)
        return names

    def sampler(self, method: str | None) -> str:
        """The operation that samples by a method: ``sample/METHOD``.

        Without a method it is ``prior`` if the model has it, else its only one. Raises UnknownOperation.
        """
        methods = self.methods
        if method is None and (DEFAULT_METHOD in methods or len(methods) == 1):
            method = DEFAULT_METHOD if DEFAULT_METHOD in methods else methods[0]
        if method is not None and method in methods:
            return SAMPLE + method
        if not methods:
            detail = f"model {self.manifest.name!r} cannot sample"
        elif method is None:
            detail = f"model {self.manifest.name!r} samples in several ways, choose a method"
        else:
            detail = (
                f"model {self.manifest.name!r} has no method {quoted(method)}{did_you_mean(method, methods)}"
            )
        raise UnknownOperation(detail, given=method, allowed=methods)

    def operations(self, chain: tuple[str, ...]) -> Operations:
        """The operations of a chain."""
        known = self._operations.get(chain)
        if known is None:
            known = Operations({name: self.manifest.operations[name] for name in chain})
            self._operations[chain] = known
        return known

    def run(
        self,
        chain: tuple[str, ...],
        given: Arrays,
        rows: int,
        values: Mapping[str, Number],
        seed: int = 0,
        still: Collection[str] = (),
    ) -> Results:
        """Run a chain for one caller, in as many pieces as it takes, on which what comes out does not depend.

        ``given`` holds arrays by role with ``rows`` rows each, ``values`` the parameters. ``seed`` makes the
        noise; in the operations ``still``, noise that has a default is that. Raises GraphFailed.
        """
        step = self.rows_at_once(chain, given, values)
        pieces = (range(start, min(start + step, rows)) for start in range(0, rows, step))
        return joined(
            [self.run_batch(chain, [Part.of(given, items, seed)], values, still)[0] for items in pieces]
        )

    def run_batch(
        self,
        chain: tuple[str, ...],
        parts: Sequence[Part],
        values: Mapping[str, Number],
        still: Collection[str] = (),
    ) -> list[Results]:
        """Run a chain once on the rows of several callers, whose parameters are the same: what each gets.

        Raises GraphFailed, for all of them, if ONNX Runtime does.
        """
        runner = Runner(self.manifest.operations, self.manifest.codes, self.graphs)
        try:
            return runner.run(chain, parts, values, still)
        except WrongOutput as error:
            raise GraphFailed(str(error)) from error

    def rows_at_once(self, chain: tuple[str, ...], given: Arrays, values: Mapping[str, Number]) -> int:
        """How many rows such as these may go through the chain at once."""
        image, stride = self.manifest.image, self.manifest.codes.stride
        area = image.height * image.width
        if Role.images in given:
            area = math.prod(given[Role.images].shape[1:3])
        elif Role.codes in given and stride is not None:
            area = math.prod(given[Role.codes].shape[1:3]) * stride * stride
        pixels = self.operations(chain).pixels(area, values)
        return max(1, min(self.batching.rows, self.batching.pixels // pixels))
