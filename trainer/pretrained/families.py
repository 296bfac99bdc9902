"""The table of families: a row says all there is of a family of checkpoints.

A new family is one file in ``architectures/`` with its config and its network, and a row here. Classes are
named rather than imported, as in ``trainer.kinds``.
"""

import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.config import CheckpointConfig
from trainer.config.imported import SHAPES, inside, model_arguments
from trainer.errors import CheckpointError, nearest
from trainer.pretrained.tensor_names import (
    ATTENTION,
    CLAMP,
    CODEBOOK,
    DEEP_COMPRESSION,
    LLAMAGEN_STAGES,
    OLDER_ATTENTION,
    PIXEL_DECODER,
    STAGES,
    TAMING_ATTENTION,
    TAMING_STAGES,
    Renames,
    averaged,
)

if TYPE_CHECKING:
    from trainer.pretrained.architectures.base import Architecture

_ARCHITECTURES = "trainer.pretrained.architectures"


class Family(NamedTuple):
    """A family of checkpoints; classes are written as ``module:Class``, of ``architectures/``.

    - ``config``: a ``CheckpointConfig``
    - ``architecture``: an ``Architecture``, made of that config
    - ``recognises``: whether a config, as read from the file, is of this family
    - ``names``: from the name of a tensor in the architecture to that in a checkpoint; of several, the first
      that the checkpoint has. The last is the name in messages
    - ``unused``: regular expressions for the tensors of a checkpoint that serving has no use for, such as
      those of a loss
    - ``inside``: the keys under which a checkpoint may nest its tensors, outermost first
    """

    config: str
    architecture: str
    recognises: Callable[[Mapping[str, Any]], bool]
    names: tuple[Renames, ...] = ((),)
    unused: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()

    def config_class(self) -> type[CheckpointConfig]:
        """The class of its configs."""
        found: type[CheckpointConfig] = pkgutil.resolve_name(f"{_ARCHITECTURES}.{self.config}")
        return found

    def architecture_class(self) -> "Callable[[CheckpointConfig], Architecture]":
        """The class of its networks."""
        found: Callable[[CheckpointConfig], Architecture] = pkgutil.resolve_name(
            f"{_ARCHITECTURES}.{self.architecture}"
        )
        return found


def _of_diffusers(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: config.get("_class_name") == name


def _arguments_have(
    *fields: str, without: tuple[str, ...] = (), attention: bool
) -> Callable[[Mapping[str, Any]], bool]:
    """Whether the arguments of a run's model have these fields, and none of others.

    ``attention`` is whether their ``ddconfig`` says where the networks have attention.
    """

    def recognises(config: Mapping[str, Any]) -> bool:
        given = model_arguments(config)
        networks = given.get("ddconfig")
        return (
            isinstance(networks, Mapping)
            and ("attn_resolutions" in networks) == attention
            and all(field in given for field in fields)
            and not any(field in given for field in without)
        )

    return recognises


def _is_titok(config: Mapping[str, Any]) -> bool:
    return inside(config, "model", "vq_model", "num_latent_tokens") is not None


# What a run has beside its tokenizer: the discriminator, the network of the perceptual loss, averages.
_OF_TRAINING = (r"loss\.", r"model_ema\.", r"colorize$")

FAMILIES: Mapping[str, Family] = {
    "autoencoder-kl": Family(
        config="autoencoder_kl:AutoencoderKLConfig",
        architecture="autoencoder_kl:AutoencoderKL",
        recognises=_of_diffusers("AutoencoderKL"),
        names=((*STAGES, *OLDER_ATTENTION), (*STAGES, *ATTENTION)),
    ),
    "vq-model": Family(
        config="vq_model:VQModelConfig",
        architecture="vq_model:VQModel",
        recognises=_of_diffusers("VQModel"),
        names=(
            (*CODEBOOK, *STAGES, *OLDER_ATTENTION),
            (*CODEBOOK, *STAGES, *ATTENTION),
        ),
    ),
    "autoencoder-tiny": Family(
        config="autoencoder_tiny:AutoencoderTinyConfig",
        architecture="autoencoder_tiny:AutoencoderTiny",
        recognises=_of_diffusers("AutoencoderTiny"),
        names=(((r"^(encoder|decoder)\.", r"\1.layers."),),),
    ),
    "taesd": Family(
        config="taesd:TAESDConfig",
        architecture="taesd:TAESD",
        recognises=lambda config: SHAPES in config,
        names=(CLAMP,),
    ),
    "autoencoder-dc": Family(
        config="autoencoder_dc.network:AutoencoderDCConfig",
        architecture="autoencoder_dc.network:AutoencoderDC",
        recognises=_of_diffusers("AutoencoderDC"),
        names=(DEEP_COMPRESSION,),
        # How many batches a batch normalisation has seen.
        unused=(r".*\.num_batches_tracked$",),
    ),
    "taming-vqgan": Family(
        config="vqgan:TamingConfig",
        architecture="vqgan:TamingVQGAN",
        recognises=_arguments_have(
            "n_embed",
            without=("sample_minimization_weight", "use_entropy_loss", "kl_weight"),
            attention=True,
        ),
        names=averaged((*TAMING_STAGES, *TAMING_ATTENTION, *CODEBOOK)),
        unused=_OF_TRAINING,
        inside=("state_dict",),
    ),
    "llamagen": Family(
        config="vqgan:LlamaGenConfig",
        architecture="vqgan:LlamaGenVQGAN",
        recognises=lambda config: "codebook_embed_dim" in config and "encoder_ch_mult" in config,
        names=((*LLAMAGEN_STAGES, *TAMING_ATTENTION, *CODEBOOK),),
        unused=(r"quantize\.codebook_used$",),
        inside=("ema", "model", "state_dict"),
    ),
    "open-magvit2": Family(
        config="lookup_free:OpenMAGVIT2Config",
        architecture="lookup_free:OpenMAGVIT2",
        recognises=_arguments_have("n_embed", "sample_minimization_weight", attention=False),
        names=averaged((*TAMING_STAGES, *TAMING_ATTENTION)),
        unused=_OF_TRAINING,
        inside=("state_dict",),
    ),
    "ibq": Family(
        config="vqgan:IBQConfig",
        architecture="vqgan:IBQ",
        recognises=_arguments_have("n_embed", "use_entropy_loss", attention=True),
        names=averaged((*TAMING_STAGES, *TAMING_ATTENTION, *CODEBOOK)),
        unused=_OF_TRAINING,
        inside=("state_dict",),
    ),
    "titok": Family(
        config="titok:TiTokConfig",
        architecture="titok:TiTok",
        recognises=_is_titok,
        names=((*PIXEL_DECODER, *CODEBOOK),),
        unused=(r"quantize\.embed_prob$",),
        inside=("state_dict",),
    ),
}


def recognised(config: Mapping[str, Any], family: str | None, source: str) -> tuple[str, Family]:
    """The name and the row of a checkpoint's family: of this name, or recognised by the config.

    Raises CheckpointError if there is no such family, or the config is of another or of none.
    """
    found = [name for name, row in FAMILIES.items() if row.recognises(config)]
    if family is not None:
        if family not in FAMILIES:
            raise CheckpointError(
                f"there is no family {family!r}; there are {', '.join(FAMILIES)}.{nearest(family, FAMILIES)}"
            )
        if found and family not in found:
            raise CheckpointError(f"{source} is of the family {found[0]}, not of {family}")
        return family, FAMILIES[family]
    if not found:
        named = config.get("_class_name")
        reason = f"names the class {named!r}" if named else "names no class that is known"
        raise CheckpointError(
            f"{source} {reason}: say its family with --family; there are {', '.join(FAMILIES)}"
        )
    return found[0], FAMILIES[found[0]]
