"""The features that the trainer learns for a perceptual loss before the first step, and keeps with the run.

``perceptual.safetensors`` in the run folder has the network, a digest of the images that it learned from, and
how well it learned. A run that is resumed finds its network there. A new run takes that of another run in the
same folder which learned from the same images in the same order.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from trainer import durable
from trainer.data import distributed
from trainer.data.batches import Batch, Batches
from trainer.data.sources.pictures import LongStep
from trainer.errors import RunError
from trainer.models.losses.feature_network import FeatureNetwork
from trainer.models.losses.pretext import learn

FILE = "perceptual.safetensors"
NETWORK, IMAGES, RIGHT, OF = "network", "images", "right", "of"
STEPS, BATCH_SIZE = 250, 32
# Raised if the tasks or the network change.
RECIPE = 1

Tensors = dict[str, Tensor]


def learned_features(
    channels: int, classes: int, train: Batches, folder: Path, step: LongStep
) -> FeatureNetwork:
    """The network of a run, from its ``folder`` if it is there; of several processes the first one learns.

    Its normalisations are folded. Raises RunError if the file cannot be read or written, or has another
    network.
    """
    own = folder / FILE
    # The random weights of the network must not change the draws of the model's training.
    with torch.random.fork_rng(devices=[]):
        # That of the CPU alone: torch.manual_seed seeds every GPU too, where --seed would then count no more.
        torch.default_generator.manual_seed(0)
        network = FeatureNetwork(channels)
        weights = distributed.from_first(lambda: _made(channels, classes, train, own, step))
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise _unreadable(own, "it has the tensors of another network") from error
        return network.folded()


def _made(channels: int, classes: int, train: Batches, own: Path, step: LongStep) -> Tensors:
    """The weights from the file of this run, from that of another, or learned now."""
    if own.is_file():
        # Whatever has become of the data: a resumed run goes on with the loss that it had.
        return _read(own)[0]
    notes = {NETWORK: json.dumps({"recipe": RECIPE, "channels": channels, "classes": classes})}
    others: dict[Path, tuple[Tensors, Mapping[str, str]]] = {}
    for other in sorted(own.parent.parent.glob(f"*/{FILE}")):
        with suppress(RunError):
            if (found := _read(other))[1].get(NETWORK) == notes[NETWORK]:
                others[other] = found
    if others:
        with step("comparing the images with those of other runs") as report:
            digest = hashlib.sha256()
            for done, _ in enumerate(_digested(train, digest), start=1):
                report(done, STEPS)
        for other, (tensors, theirs) in others.items():
            if theirs.get(IMAGES) == digest.hexdigest():
                _keep(own, tensors, {**notes, IMAGES: digest.hexdigest(), OF: other.parent.name})
                return tensors
    digest = hashlib.sha256()
    with step("learning the features of the perceptual loss") as report:
        network = FeatureNetwork(channels).to(memory_format=torch.channels_last).to(train.device)
        right = learn(network, _digested(train, digest), STEPS, classes, report)
        network.cpu().to(memory_format=torch.contiguous_format)
    _keep(own, network.state_dict(), {**notes, IMAGES: digest.hexdigest(), RIGHT: json.dumps(right)})
    return network.state_dict()


def _digested(train: Batches, digest: "hashlib._Hash") -> Iterator[Batch]:
    """The batches to learn from; each goes into the digest, with its labels."""
    for batch in train.drawn(STEPS, BATCH_SIZE):
        for tensor in (batch.images, batch.labels):
            if tensor is not None:
                digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
                digest.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
        yield batch


def _read(file: Path) -> tuple[Tensors, Mapping[str, str]]:
    """The tensors of a file, and the notes beside them."""
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            return tensors, opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, why: object) -> RunError:
    return RunError(f"{file} cannot be read: {why}; delete it to have it made again")


def _keep(file: Path, tensors: Mapping[str, Tensor], notes: dict[str, str]) -> None:
    unfinished = file.with_name(f".{file.name}")
    try:
        save_file(dict(tensors), unfinished, notes)
        durable.sync(unfinished)
        unfinished.replace(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot write {file}: {error}") from error
