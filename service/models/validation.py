"""Model validation: the graphs of a bundle checked against its manifest, and each run once."""

import logging
from collections.abc import Collection
from functools import partial

import numpy as np

from service.contract.manifest import Input, Manifest, Operation, fits
from service.contract.measures import Precision
from service.contract.roles import Role, Source
from service.contract.runner import Arrays
from service.errors import GraphFailed, ModelRefused
from service.models.bundle import Bundle, read_fingerprint, read_manifest, read_tensors
from service.models.model import BatchLimits, ServedModel
from service.models.pipeline import SAMPLE, Pipeline
from service.runtime.beside_cpu import BesideCpu
from service.runtime.io_binding import padded_sizes
from service.runtime.providers import MEASURED, Provider
from service.runtime.session import Session, TensorType

log = logging.getLogger(__name__)

# The input and the output of each operation that has a REST endpoint.
_ENDPOINTS = {
    "encode": (Role.images, Role.codes),
    "decode": (Role.codes, Role.images),
    "reconstruct": (Role.images, Role.images),
    "score": (Role.images, Role.figure),
}
# Roles that an endpoint must have a field for.
_GIVEN = [role for role in Role if role.spec.source is Source.REQUEST and not role.spec.anywhere]
# The inputs of samplers that complete and of samplers that interpolate.
_COMPLETION = {Role.codes, Role.mask}
_INTERPOLATION = {Role.codes, Role.target, Role.fraction}


def load_model(bundle: Bundle, provider: Provider, batch_limits: BatchLimits) -> ServedModel:
    """Load the graphs of a bundle, check them against the manifest, and run each once.

    In the precision of the provider, or else in float32, with a warning. Raises ModelRefused.
    """
    name, wanted = bundle.manifest.name, provider.precision
    if wanted == "32":
        return _loaded(bundle, provider, batch_limits, wanted)
    if wanted not in bundle.manifest.precisions:
        reason = f"the model has no graphs in precision {wanted}"
    else:
        try:
            return _loaded(bundle, provider, batch_limits, wanted)
        except ModelRefused as error:
            reason = f"its graphs in precision {wanted} do not run on {provider.name}: {error}"
    model = _loaded(bundle, provider, batch_limits, "32", reason)
    log.warning("model %s runs in precision 32, not %s: %s", name, wanted, reason)
    return model


def _loaded(
    bundle: Bundle,
    provider: Provider,
    batch_limits: BatchLimits,
    precision: Precision,
    precision_reason: str | None = None,
) -> ServedModel:
    manifest, tensors = bundle.manifest, read_tensors(bundle)
    halves = set() if precision == "32" else {*manifest.precisions[precision].graphs.values()}
    files = {
        operation.graph: manifest.graph_on(name, provider.name, precision)
        for name, operation in manifest.operations.items()
    }
    sessions: dict[str, Session | BesideCpu] = {}
    for graph, file in sorted(files.items()):
        session = Session(bundle.path / file, provider, tensors, half=file in halves)
        sessions[graph] = session
        if provider.cpu_rows and provider.captures and not session.captures:
            on_cpu = Provider("cpu", provider.reason, provider.threads)
            sessions[graph] = BesideCpu(session, Session(bundle.path / graph, on_cpu, tensors))
    model = ServedModel(bundle, provider, sessions, batch_limits, precision, precision_reason)
    for name, operation in manifest.operations.items():
        _validate_roles(name, operation)
        _validate_graph(name, operation, sessions[operation.graph], manifest)
    for name in manifest.operations:
        provider.call(partial(_warm_up, model, name))
    both = ["reconstruct"] if manifest.operations.keys() >= {"encode", "decode"} else []
    for verb in dict.fromkeys([*manifest.operations, *both]):
        provider.call(partial(_capture, model, verb))
    for name in manifest.operations:
        provider.call(partial(_place, model, name))
    # A bundle that was published again in the meantime may be a mix of old and new files.
    if read_fingerprint(bundle.path, read_manifest(bundle.path)) != bundle.fingerprint:
        raise ModelRefused("the bundle changed while it was loaded; reload again")
    return model


def _validate_roles(name: str, operation: Operation) -> None:
    """Refuse an operation whose inputs no request fills, or whose outputs no endpoint returns."""
    if name in _ENDPOINTS:
        takes, gives = _ENDPOINTS[name]
        if not operation.takes(takes):
            raise ModelRefused(f"operation {name!r} does not take {takes}")
        if not operation.gives(gives):
            raise ModelRefused(f"operation {name!r} does not give {gives}")
        _validate_inputs(name, operation, {takes})
    elif name.startswith(SAMPLE):
        _validate_sampler(name, operation)
    roles = [output.role for output in operation.outputs if not output.role.spec.by_name]
    if len(set(roles)) != len(roles):
        raise ModelRefused(f"operation {name!r} gives a role twice")


def _validate_sampler(name: str, operation: Operation) -> None:
    if not operation.gives(Role.codes) and not operation.gives(Role.images):
        raise ModelRefused(f"operation {name!r} is a sampler and gives neither codes nor images")
    if operation.takes(Role.mask) and operation.takes(Role.target):
        raise ModelRefused(f"operation {name!r} takes a mask and a target; no request gives both")
    allowed: Collection[Role] = ()
    for role, inputs in ((Role.mask, _COMPLETION), (Role.target, _INTERPOLATION)):
        if operation.takes(role):
            if not operation.gives(Role.codes):
                raise ModelRefused(f"operation {name!r} takes a {role} of codes and does not give codes")
            allowed = inputs
    _validate_inputs(name, operation, allowed)


def _validate_inputs(name: str, operation: Operation, allowed: Collection[Role]) -> None:
    for role in _GIVEN:
        if operation.takes(role) and role not in allowed:
            raise ModelRefused(f"operation {name!r} takes {role}, which no request gives it")


def _validate_graph(
    name: str, operation: Operation, session: Session | BesideCpu, manifest: Manifest
) -> None:
    """Refuse a graph whose inputs and outputs differ from the manifest in name, dtype or rank."""
    where = f"operation {name!r}, graph {session.name!r}"
    named = [item.name for item in operation.inputs]
    if sorted(named) != sorted(session.inputs):
        raise ModelRefused(f"{where}: inputs {sorted(session.inputs)}, the manifest says {sorted(named)}")
    if missing := sorted({output.name for output in operation.outputs} - set(session.outputs)):
        raise ModelRefused(f"{where}: outputs {sorted(session.outputs)}, the manifest also says {missing}")
    for item in operation.inputs:
        expected = _tensor_type(item.role, manifest, operation, item)
        if session.inputs[item.name] != expected:
            raise ModelRefused(f"{where}: {item.name!r} is {session.inputs[item.name]}, not {expected}")
    for output in operation.outputs:
        expected = _tensor_type(output.role, manifest, operation)
        if session.outputs[output.name] != expected:
            raise ModelRefused(f"{where}: {output.name!r} is {session.outputs[output.name]}, not {expected}")


def _tensor_type(
    role: Role, manifest: Manifest, operation: Operation, item: Input | None = None
) -> TensorType:
    if item is not None and role.spec.source is Source.PARAMETER:
        return TensorType(operation.parameters[item.name].dtype, 0)
    dtype, row = manifest.row(role)
    axes = item.rank(len(manifest.codes.shape)) if item is not None and item.is_noise else len(row)
    return TensorType(dtype, 1 + axes)


def _warm_up(model: ServedModel, name: str) -> None:
    """Run an operation on one row of the native size, and check the shapes of its outputs."""
    pipeline = model.pipeline_of(name)
    try:
        results = model.run(pipeline, _zeros(model, pipeline, 1), 1, pipeline.defaults)
    except GraphFailed as error:
        raise ModelRefused(f"operation {name!r} fails on an image of the native size") from error
    for role, array in results.arrays.items():
        row, shape = model.manifest.row(role)[1], array.shape
        if not fits(shape[1:], row):
            raise ModelRefused(f"operation {name!r} gives {role} of shape {list(shape)}, not {[1, *row]}")


def _capture(model: ServedModel, verb: str) -> None:
    """Run a pipeline on each number of rows to which batches are padded, if all its graphs capture runs.

    To plan and capture one takes tens of milliseconds, which no request then waits for.
    """
    pipeline, operations = model.pipeline(verb), model.manifest.operations
    if not all(model.sessions[operations[name].graph].captures for name in pipeline.names):
        return
    most = model.batch_rows(pipeline, _zeros(model, pipeline, 1), pipeline.defaults)
    for size in padded_sizes(most):
        rows = min(size, most)
        try:
            model.run(pipeline, _zeros(model, pipeline, rows), rows, pipeline.defaults)
        except GraphFailed as error:
            raise ModelRefused(f"{verb!r} fails on {rows} images of the native size") from error


def _place(model: ServedModel, name: str) -> None:
    """Choose up to how many rows an operation runs on the CPU beside a GPU."""
    operation, pipeline = model.manifest.operations[name], model.pipeline_of(name)
    session = model.sessions[operation.graph]
    if not isinstance(session, BesideCpu):
        return
    if model.provider.cpu_rows != MEASURED:
        session.cpu_rows = model.provider.cpu_rows
        return
    most = model.batch_rows(pipeline, _zeros(model, pipeline, 1), pipeline.defaults)
    try:
        session.measure(
            lambda rows: model.run(pipeline, _zeros(model, pipeline, rows), rows, pipeline.defaults), most
        )
    except GraphFailed as error:
        raise ModelRefused(f"operation {name!r} fails on up to {most} images of the native size") from error
    log.info("%s of model %s runs on the CPU up to %d rows", name, model.manifest.name, session.cpu_rows)


def _zeros(model: ServedModel, pipeline: Pipeline, rows: int) -> Arrays:
    """What a request has to give a pipeline, all zero."""
    first = model.manifest.operations[pipeline.names[0]]
    return {
        item.role: np.zeros((rows, *shape), dtype)
        for item in first.inputs
        if item.role.spec.source is Source.REQUEST and item.fill(first.roles) is None
        for dtype, shape in [model.manifest.row(item.role)]
    }
