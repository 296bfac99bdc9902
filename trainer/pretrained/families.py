"""The table of families: a row says all there is of a family of checkpoints.

A new family is one file in ``architectures/`` with its config and its network, and a row here. Classes are
named rather than imported, as in ``trainer.kinds``.
"""

import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.config import CheckpointConfig
from trainer.config.imported import model_arguments
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
      that the checkpoint has. The last is the name in messages
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
# Before its release 0.17.
_OLDER_ATTENTION: Renames = ((r"(attentions\.\d+)\.out\.", r"\1.proj_attn."),)


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
    model = config.get("model")
    tokenizer = model.get("vq_model") if isinstance(model, Mapping) else None
    return isinstance(tokenizer, Mapping) and "num_latent_tokens" in tokenizer


def _averaged(names: Renames) -> tuple[Renames, ...]:
    """The moving averages of the tensors where there are any, as with ``use_ema``; else the tensors."""
    return (*names, (r"\.", ""), (r"^", "model_ema.")), names


_LOOKUP: Renames = ((r"^quantizer\.codebook$", "quantize.embedding.weight"),)
_TAMING_ATTENTION: Renames = (
    (r"\.attentions\.", ".attn."),
    (r"\.query\.", ".q."),
    (r"\.key\.", ".k."),
    (r"\.value\.", ".v."),
    (r"\.out\.", ".proj_out."),
    (r"\.shortcut\.", ".nin_shortcut."),
)
_TAMING_STAGES: Renames = (
    (r"\.stages\.", ".down."),
    (r"\.(down|up)\.(\d+)\.blocks\.", r".\1.\2.block."),
    (r"\.down\.(\d+)\.resample\.", r".down.\1.downsample."),
    (r"\.up\.(\d+)\.resample\.", r".up.\1.upsample."),
    (r"\.middle\.blocks\.0\.", ".mid.block_1."),
    (r"\.middle\.blocks\.1\.", ".mid.block_2."),
    (r"\.middle\.attention\.", ".mid.attn_1."),
)
_LLAMAGEN_STAGES: Renames = (
    (r"\.stages\.(\d+)\.blocks\.", r".conv_blocks.\1.res."),
    (r"\.stages\.", ".conv_blocks."),
    (r"^encoder(.*)\.resample\.", r"encoder\1.downsample."),
    (r"^decoder(.*)\.resample\.", r"decoder\1.upsample."),
    (r"\.middle\.blocks\.0\.", ".mid.0."),
    (r"\.middle\.blocks\.1\.", ".mid.2."),
    (r"\.middle\.attention\.", ".mid.1."),
)
_PIXEL_DECODER: Renames = (
    (r"^pixel_codebook$", "pixel_quantize.embedding.weight"),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.resample\.conv\.", ".upsample_conv."),
)
# What training has beside the tokenizer: the discriminator, the network of the perceptual loss, averages.
_OF_TRAINING = (r"loss\.", r"model_ema\.", r"colorize$")

FAMILIES: Mapping[str, Family] = {
    "autoencoder-kl": Family(
        config="autoencoder_kl:AutoencoderKLConfig",
        architecture="autoencoder_kl:AutoencoderKL",
        recognises=_of_diffusers("AutoencoderKL"),
        summary="The VAE of latent diffusion (2112.10752), as diffusers' `AutoencoderKL`",
        names=((*_STAGES, *_OLDER_ATTENTION), (*_STAGES, *_ATTENTION)),
    ),
    "taming-vqgan": Family(
        config="vqgan:TamingConfig",
        architecture="vqgan:TamingVQGAN",
        recognises=_arguments_have(
            "n_embed",
            without=("sample_minimization_weight", "use_entropy_loss", "kl_weight"),
            attention=True,
        ),
        summary="The VQGAN of taming-transformers (2012.09841) and of latent diffusion",
        names=_averaged((*_TAMING_STAGES, *_TAMING_ATTENTION, *_LOOKUP)),
        unused=_OF_TRAINING,
        inside=("state_dict",),
    ),
    "llamagen": Family(
        config="vqgan:LlamaGenConfig",
        architecture="vqgan:LlamaGenVQGAN",
        recognises=lambda config: "codebook_embed_dim" in config and "encoder_ch_mult" in config,
        summary="The VQGAN of LlamaGen (2406.06525), VQ-8 and VQ-16",
        names=((*_LLAMAGEN_STAGES, *_TAMING_ATTENTION, *_LOOKUP),),
        unused=(r"quantize\.codebook_used$",),
        inside=("ema", "model", "state_dict"),
    ),
    "open-magvit2": Family(
        config="lookup_free:OpenMAGVIT2Config",
        architecture="lookup_free:OpenMAGVIT2",
        recognises=_arguments_have("n_embed", "sample_minimization_weight", attention=False),
        summary="The tokenizer of Open-MAGVIT2 (2409.04410): lookup-free quantization",
        names=_averaged((*_TAMING_STAGES, *_TAMING_ATTENTION)),
        unused=_OF_TRAINING,
        inside=("state_dict",),
    ),
    "ibq": Family(
        config="vqgan:IBQConfig",
        architecture="vqgan:IBQ",
        recognises=_arguments_have("n_embed", "use_entropy_loss", attention=True),
        summary="The tokenizer of IBQ (2412.02692): index backpropagation quantization",
        names=_averaged((*_TAMING_STAGES, *_TAMING_ATTENTION, *_LOOKUP)),
        unused=_OF_TRAINING,
        inside=("state_dict",),
    ),
    "titok": Family(
        config="titok:TiTokConfig",
        architecture="titok:TiTok",
        recognises=_is_titok,
        summary="TiTok (2406.07550): a sequence of tokens, by transformers",
        names=((*_PIXEL_DECODER, *_LOOKUP),),
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
        told = f"names the class {named!r}" if named else "names no class that is known"
        raise CheckpointError(
            f"{source} {told}: say its family with --family; there are {', '.join(FAMILIES)}"
        )
    return found[0], FAMILIES[found[0]]
