"""A served model: its graphs, and the one way to run them, by role.

The service knows roles, not kinds of models. An *operation* of the manifest is run by filling the inputs of
its graph by role and returning its outputs by role; operations are chained by handing the outputs of one to
the next. To encode, decode, reconstruct or sample is to run a chain:

    encode             encode
    decode             decode
    reconstruct        reconstruct if the model has it, else encode, decode
    sample/METHOD      sample/METHOD, and decode if that gives codes alone

A method that takes codes and a mask samples the codes where the mask is True and keeps the others. Who gives
neither has all of them sampled: the mask is then True everywhere.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service import arguments, noise
from service.arguments import Number
from service.errors import GraphFailed, ModelRefused, UnknownOperation, did_you_mean, quoted
from service.folder import Folder, read_fingerprint, read_manifest
from service.manifest import Input, Manifest, Operation, Role
from service.runtime import Graph, Provider, Tensor

Array = NDArray[Any]
Arrays = Mapping[Role, Array]

SAMPLE = "sample/"
DEFAULT_METHOD = "prior"

# What an operation of a known name takes and gives: the REST calls have nothing else for it.
_SIGNATURES = {
    "encode": (Role.images, Role.codes),
    "decode": (Role.codes, Role.images),
    "reconstruct": (Role.images, Role.images),
}


@dataclass(frozen=True)
class Batching:
    """How much goes through a graph at once: at most so many rows, and so many pixels or noise values."""

    rows: int = 64
    pixels: int = 2**20


@dataclass(frozen=True)
class Model:
    """A model that is served."""

    folder: Folder
    provider: Provider
    graphs: Mapping[str, Graph]
    batching: Batching = Batching()

    @property
    def manifest(self) -> Manifest:
        """What the model is."""
        return self.folder.manifest

    @property
    def methods(self) -> list[str]:
        """The ways to sample."""
        names = self.manifest.operations
        return sorted(name.removeprefix(SAMPLE) for name in names if name.startswith(SAMPLE))

    @property
    def completing_methods(self) -> list[str]:
        """The ways to sample that can keep some of the codes they are given."""
        operations = self.manifest.operations
        return [method for method in self.methods if operations[SAMPLE + method].takes(Role.mask)]

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
                raise UnknownOperation(
                    f"model {self.manifest.name!r} has no operation {quoted(name)}"
                    f"{did_you_mean(name, operations)}",
                    given=name,
                    allowed=sorted(operations),
                )
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

    def operations(self, chain: tuple[str, ...]) -> list[Operation]:
        """The operations of a chain."""
        return [self.manifest.operations[name] for name in chain]

    def run(
        self, chain: tuple[str, ...], given: Arrays, rows: int, values: Mapping[str, Number], seed: int = 0
    ) -> dict[Role, Array]:
        """Run a chain of operations on ``rows`` rows: what was given and what came out, by role.

        ``given`` holds ``images``, ``codes``, ``mask`` and ``label`` as far as the chain takes them, with
        ``rows`` rows each; without a mask, every code is sampled. ``values`` holds the parameters, as
        ``arguments.parameters`` returns them; ``seed`` makes the noise.

        Large requests go in pieces; what comes out does not depend on how they were cut.

        Raises GraphFailed if ONNX Runtime does.
        """
        pieces = []
        for items in self._pieces(chain, given, rows, values):
            roles = {role: array[items.start : items.stop] for role, array in given.items()}
            for name in chain:
                roles |= self._run_operation(name, roles, items, values, seed)
            pieces.append(roles)
        return {role: np.concatenate([piece[role] for piece in pieces]) for role in pieces[0]}

    def _run_operation(
        self, name: str, roles: Arrays, items: range, values: Mapping[str, Number], seed: int
    ) -> dict[Role, Array]:
        operation = self.manifest.operations[name]
        if operation.takes(Role.mask) and Role.mask not in roles:
            roles = {**self._nothing_kept(len(items)), **roles}
        feeds: dict[str, Array] = {}
        for item in operation.inputs:
            if item.role is Role.parameter:
                dtype = operation.parameters[item.name].dtype
                feeds[item.name] = np.array(values[item.name], dtype=dtype)
            elif item.role in (Role.normal, Role.uniform):
                draw = noise.normal if item.role is Role.normal else noise.uniform
                feeds[item.name] = draw(
                    seed, items, noise.stream(name, item.name), _noise_shape(item, values)
                )
            else:
                feeds[item.name] = roles[item.role]
        arrays = self.graphs[operation.graph].run(feeds, [output.name for output in operation.outputs])
        for output, array in zip(operation.outputs, arrays, strict=True):
            if len(array) != len(items):
                raise GraphFailed(
                    f"operation {name!r} gave {len(array)} rows of {output.role} for {len(items)}"
                )
        return {output.role: array for output, array in zip(operation.outputs, arrays, strict=True)}

    def _nothing_kept(self, rows: int) -> dict[Role, Array]:
        """The codes and mask of callers who give none: all codes are to be sampled."""
        codes = self.manifest.codes
        shape = (rows, *codes.shape)
        return {Role.codes: np.zeros(shape, codes.dtype), Role.mask: np.ones(shape, np.bool_)}

    def _pieces(
        self, chain: tuple[str, ...], given: Arrays, rows: int, values: Mapping[str, Number]
    ) -> Iterator[range]:
        image, stride = self.manifest.image, self.manifest.codes.stride
        area = image.height * image.width
        if Role.images in given:
            area = math.prod(given[Role.images].shape[1:3])
        elif Role.codes in given and stride is not None:
            area = math.prod(given[Role.codes].shape[1:3]) * stride * stride
        noises = [
            math.prod(_noise_shape(item, values))
            for operation in self.operations(chain)
            for item in operation.inputs
        ]
        step = max(1, min(self.batching.rows, self.batching.pixels // max(area, *noises)))
        return (range(start, min(start + step, rows)) for start in range(0, rows, step))


def load_model(folder: Folder, provider: Provider, batching: Batching) -> Model:
    """Load the graphs of a verified folder, hold them against the manifest, and run each once.

    Raises ModelRefused.
    """
    manifest = folder.manifest
    names = sorted({operation.graph for operation in manifest.operations.values()})
    model = Model(folder, provider, {name: Graph(folder.path / name, provider) for name in names}, batching)
    for name, operation in manifest.operations.items():
        _check_signature(name, operation)
        _check_graph(name, operation, model.graphs[operation.graph], manifest)
    for name in manifest.operations:
        _warm_up(model, name)
    # A folder that was published anew in the meantime has been read half old, half new.
    if read_fingerprint(folder.path, read_manifest(folder.path)) != folder.fingerprint:
        raise ModelRefused("it changed while it was loaded; reload again")
    return model


def _check_signature(name: str, operation: Operation) -> None:
    takes, gives = _SIGNATURES.get(name, (None, None))
    if takes is not None and not operation.takes(takes):
        raise ModelRefused(f"operation {name!r} does not take {takes}")
    if gives is not None and not operation.gives(gives):
        raise ModelRefused(f"operation {name!r} does not give {gives}")
    if name in _SIGNATURES or name.startswith(SAMPLE):
        completes = name.startswith(SAMPLE) and operation.takes(Role.mask)
        if completes and not operation.gives(Role.codes):
            raise ModelRefused(f"operation {name!r} takes a mask of codes and does not give codes")
        known = {Role.codes, Role.mask} if completes else {takes}
        for role in (Role.images, Role.codes, Role.mask):
            if operation.takes(role) and role not in known:
                raise ModelRefused(f"operation {name!r} takes {role}, which no call has for it")
    roles = [output.role for output in operation.outputs]
    if len(set(roles)) != len(roles):
        raise ModelRefused(f"operation {name!r} gives a role twice")


def _check_graph(name: str, operation: Operation, graph: Graph, manifest: Manifest) -> None:
    where = f"operation {name!r}, graph {graph.name!r}"
    named = [item.name for item in operation.inputs]
    if sorted(named) != sorted(graph.inputs):
        raise ModelRefused(f"{where}: inputs {sorted(graph.inputs)}, the manifest says {sorted(named)}")
    if strange := sorted({output.name for output in operation.outputs} - set(graph.outputs)):
        raise ModelRefused(f"{where}: outputs {sorted(graph.outputs)}, the manifest also says {strange}")
    for item in operation.inputs:
        wanted = _tensor(item.role, manifest, operation, item)
        if graph.inputs[item.name] != wanted:
            raise ModelRefused(f"{where}: {item.name!r} is {graph.inputs[item.name]}, not {wanted}")
    for output in operation.outputs:
        wanted = _tensor(output.role, manifest, operation)
        if graph.outputs[output.name] != wanted:
            raise ModelRefused(f"{where}: {output.name!r} is {graph.outputs[output.name]}, not {wanted}")


def _tensor(role: Role, manifest: Manifest, operation: Operation, item: Input | None = None) -> Tensor:
    """What an input or output of a role must be."""
    match role:
        case Role.images:
            return Tensor("uint8", 4)
        case Role.codes:
            return Tensor(manifest.codes.dtype, 1 + len(manifest.codes.shape))
        case Role.mask:
            return Tensor("bool", 1 + len(manifest.codes.shape))
        case Role.label:
            return Tensor("int64", 1)
        case Role.parameter:
            return Tensor(operation.parameters[item.name].dtype if item else "", 0)
        case Role.normal | Role.uniform:
            return Tensor("float32", 1 + len(item.shape if item else ()))


def _warm_up(model: Model, name: str) -> None:
    """Run an operation on one row of the native size; what comes out must be what the manifest says."""
    manifest, operation = model.manifest, model.manifest.operations[name]
    image = (1, manifest.image.height, manifest.image.width, manifest.image.channels)
    codes = (1, *manifest.codes.shape)
    given: dict[Role, Array] = {
        Role.images: np.zeros(image, dtype=np.uint8),
        Role.codes: np.zeros(codes, dtype=manifest.codes.dtype),
        Role.label: np.zeros(1, dtype=np.int64),
    }
    try:
        results = model.run((name,), given, 1, arguments.parameters([operation], {}))
    except GraphFailed as error:
        raise ModelRefused(f"operation {name!r} fails on an image of the model's own size") from error
    for role, shape in ((Role.images, image), (Role.codes, codes)):
        if results[role].shape != shape:
            raise ModelRefused(
                f"operation {name!r} gives {role} of shape {list(results[role].shape)}, not {list(shape)}"
            )


def _noise_shape(item: Input, values: Mapping[str, Number]) -> tuple[int, ...]:
    return tuple(int(values[axis]) if isinstance(axis, str) else axis for axis in item.shape)
