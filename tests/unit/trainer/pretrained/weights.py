"""The weights of an import, as fine-tuning reads them from what was published."""

from pathlib import Path

import torch

from service.contract.manifest import ImageSpec
from trainer.config import FinetuneConfig
from trainer.pretrained.architectures.base import Architecture
from trainer.pretrained.finetuned_model import FinetunedModel
from trainer.training import initial_weights


def started(published: Path) -> FinetunedModel:
    """The model that starts from a published import."""
    config = FinetuneConfig(name="further", init_from=published)
    assert config.origin is not None
    size = config.origin.image_size
    model = FinetunedModel(config, ImageSpec(channels=config.origin.channels, height=size, width=size), 0.1)
    initial_weights.check(config, published)
    initial_weights.load(config, published, model)
    return model


def assert_starts_from(published: Path, net: Architecture) -> None:
    """Every tensor of the network is found again; code vectors on the sphere may have another length."""
    found = started(published).net.state_dict()
    for name, tensor in net.state_dict().items():
        if name == "quantizer.codebook":
            assert net.quantizer is not None
            tensor = net.quantizer.serving().codebook
        assert torch.equal(found[name], tensor), name
