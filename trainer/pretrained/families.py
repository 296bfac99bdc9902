"""The table of families: a row says all there is of a family of checkpoints.

A new family is one file in ``architectures/`` with its config and its network, and a row here. Classes are
named rather than imported, as in ``trainer.kinds``.
"""

import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.config import CheckpointConfig
from trainer.errors import CheckpointError, nearest

if TYPE_CHECKING:
    from trainer.pretrained.architectures.base import Architecture

Renames = tuple[tuple[str, str], ...]
"""Regular expressions and replacements, applied one after the other to the name of a tensor."""

_ARCHITECTURES = "trainer.pretrained.architectures"


class Family(NamedTuple):
    """A family of checkpoints; classes are written as ``module:Class``, of ``architectures/``.

    - ``config``: a ``CheckpointConfig``
    - ``architecture``: an ``Architecture``, made of that config
    - ``recognises``: whether a config, as read from the file, is of this family
    - ``names``: from the name of a tensor in the architecture to that in a checkpoint; of several, the first
      that the checkpoint has
    - ``unused``: regular expressions for the tensors of a checkpoint that serving has no use for, such as
      those of a loss
    - ``inside``: the keys under which a checkpoint may have its tensors, one in the other
    - ``summary``: one line for the documents
    """

    config: str
    architecture: str
    recognises: Callable[[Mapping[str, Any]], bool]
    summary: str
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


# Autoencoders of residual blocks in stages, in diffusers' names.
_STAGES: Renames = (
    (r"^encoder\.stages\.", "encoder.down_blocks."),
    (r"^decoder\.stages\.", "decoder.up_blocks."),
    (r"^encoder(.*)\.resample\.", r"encoder\1.downsamplers.0."),
    (r"^decoder(.*)\.resample\.", r"decoder\1.upsamplers.0."),
    (r"\.middle\.", ".mid_block."),
    (r"\.mid_block\.attention\.", ".mid_block.attentions.0."),
    (r"\.blocks\.", ".resnets."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
)
_ATTENTION: Renames = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
)
_VQ: Renames = ((r"^quantizer\.codebook$", "quantize.embedding.weight"),)
# Before its release 0.17.
_OLDER_ATTENTION: Renames = ((r"(attentions\.\d+)\.out\.", r"\1.proj_attn."),)

# EfficientViT's blocks, in diffusers' names; those of our encoder and decoder that are not listed are alike.
_DEEP_COMPRESSION: Renames = (
    (r"^encoder\.stages\.", "encoder.down_blocks."),
    (r"^decoder\.stages\.", "decoder.up_blocks."),
    (r"(blocks\.\d+\.\d+)\.0\.", r"\1.attn."),
    (r"(blocks\.\d+\.\d+)\.1\.", r"\1.conv_out."),
    (r"\.attn\.query\.", ".attn.to_q."),
    (r"\.attn\.key\.", ".attn.to_k."),
    (r"\.attn\.value\.", ".attn.to_v."),
    (r"\.attn\.out\.", ".attn.to_out."),
    (r"\.attn\.norm\.", ".attn.norm_out."),
    (r"\.aggregations\.(\d+)\.depthwise\.", r".to_qkv_multiscale.\1.proj_in."),
    (r"\.aggregations\.(\d+)\.pointwise\.", r".to_qkv_multiscale.\1.proj_out."),
    (r"\.conv_out\.inverted\.", ".conv_out.conv_inverted."),
    (r"\.conv_out\.depthwise\.", ".conv_out.conv_depth."),
    (r"\.conv_out\.pointwise\.", ".conv_out.conv_point."),
)

FAMILIES: Mapping[str, Family] = {
    "autoencoder-kl": Family(
        config="autoencoder_kl:AutoencoderKLConfig",
        architecture="autoencoder_kl:AutoencoderKL",
        recognises=_of_diffusers("AutoencoderKL"),
        summary="The VAE of latent diffusion (2112.10752), as diffusers' `AutoencoderKL`",
        names=((*_STAGES, *_ATTENTION), (*_STAGES, *_OLDER_ATTENTION)),
    ),
    "vq-model": Family(
        config="vq_model:VQModelConfig",
        architecture="vq_model:VQModel",
        recognises=_of_diffusers("VQModel"),
        summary="VQGAN, as diffusers' `VQModel` (2012.09841)",
        names=((*_VQ, *_STAGES, *_ATTENTION), (*_VQ, *_STAGES, *_OLDER_ATTENTION)),
    ),
    "autoencoder-tiny": Family(
        config="autoencoder_tiny:AutoencoderTinyConfig",
        architecture="autoencoder_tiny:AutoencoderTiny",
        recognises=_of_diffusers("AutoencoderTiny"),
        summary="TAESD, as diffusers' `AutoencoderTiny`",
        names=(((r"^(encoder|decoder)\.", r"\1.layers."),),),
    ),
    "autoencoder-dc": Family(
        config="autoencoder_dc.network:AutoencoderDCConfig",
        architecture="autoencoder_dc.network:AutoencoderDC",
        recognises=_of_diffusers("AutoencoderDC"),
        summary="DC-AE, as diffusers' `AutoencoderDC` (2410.10733)",
        names=(_DEEP_COMPRESSION,),
        # How many batches a batch normalisation has seen.
        unused=(r".*\.num_batches_tracked$",),
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
        told = f"names the class {named!r}" if named else "names no class that is known"
        raise CheckpointError(
            f"{source} {told}: say its family with --family; there are {', '.join(FAMILIES)}"
        )
    return found[0], FAMILIES[found[0]]
