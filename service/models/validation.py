"""Whether a verified folder can be served: its graphs held against its manifest, and run once."""

from collections.abc import Collection
from functools import partial

import numpy as np

from service.contract.manifest import Input, Manifest, Operation, Role, fits
from service.contract.runner import Arrays
from service.errors import GraphFailed, ModelRefused
from service.models.bundle import Folder, read_fingerprint, read_manifest
from service.models.model import SAMPLE, Batching, Model
from service.runtime.providers import Provider
from service.runtime.session import Graph, Tensor

# What an operation of a known name takes and gives: the REST calls have nothing else for it.
_SIGNATURES = {
    "encode": (Role.images, Role.codes),
    "decode": (Role.codes, Role.images),
    "reconstruct": (Role.images, Role.images),
    "score": (Role.images, Role.figure),
}
# What may be given by a caller, or comes from the operation before.
_GIVEN = (Role.images, Role.codes, Role.mask, Role.target, Role.fraction)
_COMPLETION = {Role.codes, Role.mask}
_INTERPOLATION = {Role.codes, Role.target, Role.fraction}


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
        provider.call(partial(_warm_up, model, name))
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
    if name.startswith(SAMPLE):
        _check_sampler(name, operation)
    elif name in _SIGNATURES:
        _check_known(name, operation, {takes})
    roles = [output.role for output in operation.outputs if output.role is not Role.figure]
    if len(set(roles)) != len(roles):
        raise ModelRefused(f"operation {name!r} gives a role twice")


def _check_sampler(name: str, operation: Operation) -> None:
    if not operation.gives(Role.codes) and not operation.gives(Role.images):
        raise ModelRefused(f"operation {name!r} gives neither codes nor images, so it samples nothing")
    if operation.takes(Role.mask) and operation.takes(Role.target):
        raise ModelRefused(f"operation {name!r} takes a mask and a target; no call has both for it")
    for role, known in ((Role.mask, _COMPLETION), (Role.target, _INTERPOLATION)):
        if operation.takes(role):
            if not operation.gives(Role.codes):
                raise ModelRefused(f"operation {name!r} takes a {role} of codes and does not give codes")
            return _check_known(name, operation, known)
    return _check_known(name, operation, ())


def _check_known(name: str, operation: Operation, known: Collection[Role | None]) -> None:
    for role in _GIVEN:
        if operation.takes(role) and role not in known:
            raise ModelRefused(f"operation {name!r} takes {role}, which no call has for it")


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
    if item is not None and role is Role.parameter:
        return Tensor(operation.parameters[item.name].dtype, 0)
    dtype, row = manifest.row(role)
    return Tensor(dtype, 1 + len(item.shape if item is not None and item.is_noise else row))


def _warm_up(model: Model, name: str) -> None:
    """Run an operation on one row of the native size; what comes out must be what the manifest says."""
    given: Arrays = {
        role: np.zeros((1, *row), dtype)
        for role in (Role.images, Role.codes, Role.target, Role.fraction, Role.label)
        for dtype, row in [model.manifest.row(role)]
    }
    try:
        results = model.run((name,), given, 1, model.operations((name,)).defaults)
    except GraphFailed as error:
        raise ModelRefused(f"operation {name!r} fails on an image of the model's own size") from error
    for role in (Role.images, Role.codes, Role.states):
        row = model.manifest.row(role)[1]
        made = results.arrays[role].shape if role in results.arrays else (1, *row)
        if not fits(made[1:], row):
            raise ModelRefused(f"operation {name!r} gives {role} of shape {list(made)}, not {[1, *row]}")
