"""The table of kinds: a row says all there is of a kind of model.

A new kind is one file with its config and its model, a row here, and a preset in ``presets/``. The command
and its flags follow from the row. Classes are named rather than imported: torch takes seconds to import, and
neither ``--help`` nor a mistyped flag should wait for it.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Kind(NamedTuple):
    """A kind of model; classes are written as ``package.module:Class``.

    - ``config``: a subclass of ``trainer.config.RunConfig``; its fields are the flags and the keys of YAML
    - ``model``: a subclass of ``trainer.models.base.Model``
    - ``preset``: the preset that applies where none is named; it is also the default ``--name``
    - ``summary``: one line for ``--help``
    - ``pictures``: the preset that applies to a folder of pictures instead, where there is one for any folder
    """

    config: str
    model: str
    preset: str
    summary: str
    pictures: str | None = None


KINDS: Mapping[str, Kind] = {
    "vqvae": Kind(
        config="trainer.config.vqvae:VQVAEConfig",
        model="trainer.models.vqvae:VQVAE",
        preset="vqvae-mnist",
        summary="A VQ-VAE: images to a grid of codes and back (1711.00937).",
        pictures="vqvae-pictures",
    ),
    "vlae": Kind(
        config="trainer.config.vlae:VLAEConfig",
        model="trainer.models.vlae:VLAE",
        preset="vlae-mnist",
        summary="A variational lossy autoencoder, its prior conditioned on the class (1611.02731).",
    ),
    "vae": Kind(
        config="trainer.config.gaussian:VAEConfig",
        model="trainer.models.vae:VAE",
        preset="vae-pokemon",
        summary="A convolutional VAE: images to a vector or a grid of codes and back (1312.6114).",
        pictures="vae-pictures",
    ),
    "ncp": Kind(
        config="trainer.config.gaussian:NCPConfig",
        model="trainer.models.vae:VAE",
        preset="ncp-mnist",
        summary="A beta-VAE with a noise contrastive prior: a classifier as energy (2010.02917).",
    ),
    "finetune": Kind(
        config="trainer.config.imported:FinetuneConfig",
        model="trainer.pretrained.finetuned_model:FinetunedModel",
        preset="finetune",
        summary="An imported model, fine-tuned on your own pictures.",
    ),
}
