"""What a chain of operations takes and gives, by name: its face as a model of the Open Inference Protocol.

A model of that protocol does one thing, so each operation of ours is one of theirs: ``MODEL:OPERATION``, with
a colon also for the slash in a sampler's name, and ``MODEL`` alone to encode. Names of models and operations
may have dots in them but no colons, so a name means one thing whatever else is served.

    vqvae-mnist                        encode
    vqvae-mnist:decode                 decode
    vqvae-mnist:sample:autoregressive  sample/autoregressive, and decode

A caller may give all that no operation of the chain makes before it is needed, except noise, which seeds
make, and parameters, which have a place of their own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from service.contract.manifest import Input, Manifest, Role
from service.errors import UnknownModel, UnknownOperation, quoted, unknown
from service.models.model import Model
from service.models.pipeline import Operations
from service.models.registry import Registry

COLON = ":"
FREE = -1
"""An axis that may have any length."""

ENCODE, RECONSTRUCT = "encode", "reconstruct"
_GIVEN = (Role.images, Role.codes, Role.mask, Role.target, Role.fraction, Role.label)


# Of the models that are there; a model that is replaced goes with what was known of it.
_KNOWN: WeakKeyDictionary[Model, dict[str, "Signature"]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Slot:
    """An input or output: its name, what it stands for, and its shape, in which FREE axes are -1."""

    name: str
    role: Role
    dtype: str
    shape: tuple[int, ...]
    required: bool = True


@dataclass(frozen=True)
class Signature:
    """A chain, and its inputs and outputs, each role once.

    Where ``repeats``, how many rows there are is for the caller to say: one row of an input then stands for
    all of them.
    """

    chain: tuple[str, ...]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    repeats: bool

    def input(self, role: Role) -> Slot | None:
        """The input of a role, if there is one."""
        return next((slot for slot in self.inputs if slot.role is role), None)


def names(model: Model) -> dict[str, str]:
    """Every name that a model has in the protocol, and the verb behind it, as ``Model.chain`` takes it."""
    own = model.manifest.name
    verbs = sorted({*model.manifest.operations, RECONSTRUCT})
    named = {f"{own}{COLON}{verb.replace('/', COLON)}": verb for verb in verbs if _runs(model, verb)}
    return {own: ENCODE, **named} if _runs(model, ENCODE) else named


def find(registry: Registry, name: str, version: str | None = None) -> tuple[Model, str]:
    """The model and the verb behind a name.

    Raises UnknownModel, also for a version that is not the one served, UnknownOperation or NotReady.
    """
    own, colon, operation = name.partition(COLON)
    model = registry.choose(own)
    served = model.manifest.version
    if version not in (None, served):
        detail = f"model {own!r} is served in version {served!r}, not {quoted(version)}"
        raise UnknownModel(detail, given=version, allowed=[served])
    verb = operation.replace(COLON, "/") if colon else ENCODE
    if not _runs(model, verb):
        raise unknown("", name, names(model), UnknownOperation)
    return model, verb


def signature(model: Model, verb: str) -> Signature:
    """What the chain behind a verb takes and gives. Raises UnknownOperation."""
    known = _KNOWN.setdefault(model, {})
    if verb not in known:
        known[verb] = _signature(model, verb)
    return known[verb]


def _signature(model: Model, verb: str) -> Signature:
    chain, manifest = model.chain(verb), model.manifest
    operations = model.operations(chain)
    inputs = list(_inputs(operations))
    roles = {item.role for item in inputs}
    # Codes beside a mask are of the model's own grid; images, and codes alone, may have another size.
    any_size = Role.images in roles or (Role.codes in roles and Role.mask not in roles)
    repeats = Role.images not in roles and (
        Role.codes not in roles or Role.mask in roles or Role.target in roles
    )
    return Signature(
        chain,
        tuple(_slot(item.name, item.role, manifest, any_size, _needed(item, roles)) for item in inputs),
        tuple(_slot(name, role, manifest, any_size) for name, role in _outputs(operations).items()),
        repeats,
    )


def _runs(model: Model, verb: str) -> bool:
    try:
        return bool(model.chain(verb))
    except UnknownOperation:
        return False


def _inputs(operations: Operations) -> Iterator[Input]:
    """The first input of each role that a caller may give."""
    known: set[Role] = set()
    for operation in operations:
        for item in operation.inputs:
            if item.role in _GIVEN and item.role not in known:
                known.add(item.role)
                yield item
        known.update(output.role for output in operation.outputs)


def _outputs(operations: Operations) -> dict[str, Role]:
    """What comes out, by name: of a role that several operations give, what the last of them does."""
    last: dict[str, Role] = {}
    for operation in reversed(list(operations)):
        for output in reversed(operation.outputs):
            if output.role is Role.figure or output.role not in last.values():
                last.setdefault(output.name, output.role)
    return dict(reversed(last.items()))


def _needed(item: Input, roles: set[Role]) -> bool:
    if item.role is Role.label:
        return item.default is None
    if item.role is Role.codes:
        return Role.mask not in roles
    return item.role not in (Role.mask, Role.fraction)


def _slot(name: str, role: Role, manifest: Manifest, any_size: bool, required: bool = True) -> Slot:
    dtype, row = manifest.row(role, any_size=any_size)
    return Slot(name, role, dtype, (FREE, *row), required)
