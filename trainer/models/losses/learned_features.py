"""The features that the trainer learns for a perceptual loss before the first step, and keeps with the run.

``perceptual.safetensors`` in the run folder has the network, the facts of the data it learned from, and how
well it learned. A run that is resumed finds the same network there. A new run takes that of another run in
the same folder which learned from the same data.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from service.contract.manifest import ImageSpec
from trainer import durable
from trainer.config import RunConfig
from trainer.data import distributed
from trainer.data.batches import Batches
from trainer.data.sources.pictures import LongStep, OnProgress
from trainer.errors import RunError
from trainer.models.losses.feature_network import FeatureNetwork
from trainer.models.losses.pretext import learn

FILE = "perceptual.safetensors"
FACTS, RIGHT, OF = "facts", "right", "of"
STEPS, BATCH_SIZE = 250, 32
# Of the config: what decides which images are learned from.
DATA_FIELDS = ("data", "fit", "background", "limit", "holdout", "seed")
# Raised if the tasks or the network change.
RECIPE = 1


def learned_features(
    config: RunConfig, image: ImageSpec, classes: int, train: Batches, folder: Path, step: LongStep
) -> FeatureNetwork:
    """The network of a run, from its ``folder`` if it is there; of several processes the first one learns.

    Its normalisations are folded. Raises RunError if the file cannot be read or written.
    """
    facts = {name: getattr(config, name) for name in DATA_FIELDS}
    facts |= {"image": image.model_dump(), "classes": classes, "recipe": RECIPE}
    text = json.dumps(facts, sort_keys=True)

    def make() -> dict[str, Tensor]:
        own = folder / FILE
        if (found := _kept(own, text)) is not None:
            return found
        for other in sorted(folder.parent.glob(f"*/{FILE}")):
            with suppress(RunError):
                if (found := _kept(other, text)) is not None:
                    _keep(own, found, {FACTS: text, OF: other.parent.name})
                    return found
        with step("learning the features of the perceptual loss") as report:
            network, right = _learned(image, classes, train, report)
        _keep(own, network.state_dict(), {FACTS: text, RIGHT: json.dumps(right)})
        return network.state_dict()

    # The random weights of the network must not change the draws of the model's training.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = FeatureNetwork(image.channels)
        network.load_state_dict(distributed.from_first(make))
        return network.folded()


def _learned(
    image: ImageSpec, classes: int, train: Batches, report: OnProgress
) -> tuple[FeatureNetwork, dict[str, float]]:
    network = FeatureNetwork(image.channels).to(memory_format=torch.channels_last).to(train.device)
    right = learn(network, train.drawn(STEPS, BATCH_SIZE), STEPS, classes, report)
    return network.cpu().to(memory_format=torch.contiguous_format), right


def _kept(file: Path, facts: str) -> dict[str, Tensor] | None:
    """The tensors of a file if it has those facts; None if it has others, or there is none."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            if (opened.metadata() or {}).get(FACTS) != facts:
                return None
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read: {error}; delete it to have it made again") from error


def _keep(file: Path, tensors: Mapping[str, Tensor], notes: dict[str, str]) -> None:
    unfinished = file.with_name(f".{file.name}")
    try:
        save_file(dict(tensors), unfinished, notes)
        durable.sync(unfinished)
        unfinished.replace(file)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot write {file}: {error}") from error
