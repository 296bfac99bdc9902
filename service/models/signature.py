"""The signature of a pipeline: its inputs and outputs by name, as a model of the Open Inference Protocol.

A model of that protocol has one function, so each operation of a served model is a model of the protocol:
``MODEL:OPERATION``, with a colon also for the slash in a sampler's name, and ``MODEL`` alone for encode.
Names of models and operations contain no colons, so every name is unambiguous.

    vqvae-mnist                        encode
    vqvae-mnist:decode                 decode
    vqvae-mnist:sample:autoregressive  sample/autoregressive, and decode

The inputs are those that the request may fill (``service.contract.roles``) and that no earlier operation of
the pipeline makes. Noise follows from the seed, and parameters are sent beside the tensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from service.contract.manifest import Input, Manifest
from service.contract.roles import Role, Source
from service.errors import UnknownModel, UnknownOperation, quoted, unknown
from service.models.model import ServedModel
from service.models.pipeline import Pipeline
from service.models.registry import Registry

COLON = ":"
FREE = -1
"""An axis of any length."""

ENCODE, RECONSTRUCT = "encode", "reconstruct"

# By served model; the entry of a replaced model is freed with it.
_SIGNATURES: WeakKeyDictionary[ServedModel, dict[str, "Signature"]] = WeakKeyDictionary()


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a pipeline. In ``shape`` the first axis is the batch, and FREE axes are -1."""

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...]
    required: bool = True


@dataclass(frozen=True)
class Signature:
    """A pipeline with its inputs and outputs, each role once.

    If ``repeats``, the request chooses the number of rows, and an input with one row is repeated.
    """

    pipeline: Pipeline
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    repeats: bool

    def input(self, role: Role) -> TensorSpec | None:
        """The input of a role, or None."""
        return next((tensor for tensor in self.inputs if tensor.role is role), None)


def names(model: ServedModel) -> dict[str, str]:
    """The names of a model in the protocol, each with its verb for ``ServedModel.pipeline``."""
    own = model.manifest.name
    verbs = sorted({*model.manifest.operations, RECONSTRUCT})
    named = {f"{own}{COLON}{verb.replace('/', COLON)}": verb for verb in verbs if runs(model, verb)}
    return {own: ENCODE, **named} if runs(model, ENCODE) else named


def find(registry: Registry, name: str, version: str | None = None) -> tuple[ServedModel, str]:
    """The model and the verb of a name.

    Raises UnknownModel, also for a version that is not served, UnknownOperation or NotReady.
    """
    own, colon, operation = name.partition(COLON)
    model = registry.choose(own)
    served = model.manifest.version
    if version not in (None, served):
        detail = f"model {own!r} is served in version {served!r}, not {quoted(version)}"
        raise UnknownModel(detail, given=version, allowed=[served])
    verb = operation.replace(COLON, "/") if colon else ENCODE
    if not runs(model, verb):
        raise unknown("", name, names(model), UnknownOperation)
    return model, verb


def signature(model: ServedModel, verb: str) -> Signature:
    """The signature of the pipeline of a verb. Raises UnknownOperation."""
    known = _SIGNATURES.setdefault(model, {})
    if verb not in known:
        known[verb] = _signature(model, verb)
    return known[verb]


def _signature(model: ServedModel, verb: str) -> Signature:
    pipeline, manifest = model.pipeline(verb), model.manifest
    inputs = list(_inputs(pipeline))
    roles = {item.role for item in inputs}
    # Codes with a mask have the native grid; images, and codes without a mask, may have another size.
    any_size = Role.images in roles or (Role.codes in roles and Role.mask not in roles)
    # Images or codes set the number of rows, but not codes that a completion or an interpolation starts from.
    repeats = Role.images not in roles and (
        Role.codes not in roles or any(role.spec.needs == Role.codes for role in roles)
    )
    return Signature(
        pipeline,
        tuple(
            _tensor(item.name, item.role, manifest, any_size, _is_required(item, roles)) for item in inputs
        ),
        tuple(_tensor(name, role, manifest, any_size) for name, role in _outputs(pipeline).items()),
        repeats,
    )


def runs(model: ServedModel, verb: str) -> bool:
    """Whether a model has every operation of the pipeline of a verb."""
    try:
        model.pipeline(verb)
    except UnknownOperation:
        return False
    return True


def _inputs(pipeline: Pipeline) -> Iterator[Input]:
    """The first input of each role that a request fills."""
    known: set[Role] = set()
    for operation in pipeline:
        for item in operation.inputs:
            if item.role.spec.source is Source.REQUEST and item.role not in known:
                known.add(item.role)
                yield item
        known.update(output.role for output in operation.outputs)


def _outputs(pipeline: Pipeline) -> dict[str, Role]:
    """The outputs by name; if several operations give a role, the output of the last one counts."""
    last: dict[str, Role] = {}
    for operation in reversed(list(pipeline)):
        for output in reversed(operation.outputs):
            if output.role.spec.by_name or output.role not in last.values():
                last.setdefault(output.name, output.role)
    return dict(reversed(last.items()))


def _is_required(item: Input, roles: set[Role]) -> bool:
    return item.role.spec.fill != "even" and item.fill(roles) is None


def _tensor(name: str, role: Role, manifest: Manifest, any_size: bool, required: bool = True) -> TensorSpec:
    dtype, row = manifest.row(role, any_size=any_size)
    return TensorSpec(name, role, dtype, (FREE, *row), required)
