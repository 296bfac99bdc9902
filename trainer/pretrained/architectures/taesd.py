"""TAESD as its author publishes it: an encoder and a decoder in two files, without a config.

See https://github.com/madebyollin/taesd. TAESD, TAESDXL, TAESD3 and TAEF1 are an ``AutoencoderTiny``.
TAEF2 has pooled blocks besides.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from trainer.config.imported import SHAPES
from trainer.errors import ConfigError
from trainer.pretrained.architectures.autoencoder_tiny import AutoencoderTiny, AutoencoderTinyConfig

FIRST, LATENTS = "encoder.0.weight", "decoder.1.weight"
# The second convolution of the variant with a stride of 32.
FOLLOWS = "encoder.2.bias"


class TAESDConfig(AutoencoderTinyConfig):
    """The config of a TAESD, which the shapes of its tensors say.

    ``pooled``: whether the blocks at the lowest resolution have a group norm over the whole image.
    """

    pooled: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any], source: str) -> Self:
        """The config of the tensors with these shapes, under ``SHAPES``; or of its own keys and values.

        Raises ConfigError if the shapes are of another network.
        """
        if (shapes := values.get(SHAPES)) is None:
            return super().of(values, source)
        if any(len(shapes.get(name, ())) != 4 for name in (FIRST, LATENTS)):
            raise ConfigError(f"{source}: {FIRST} or {LATENTS} is missing, so it is no TAESD in two files")
        if FOLLOWS in shapes:
            raise ConfigError(
                f"{source}: the encoder begins with two convolutions, as that of TAESANA: "
                "allowed is TAESD with a stride of 8"
            )
        (width, channels), (decoder_width, latents) = shapes[FIRST][:2], shapes[LATENTS][:2]
        encoder, decoder = (_blocks(shapes, part) for part in ("encoder", "decoder"))
        found = {
            "in_channels": channels,
            "out_channels": channels,
            "latent_channels": latents,
            "num_encoder_blocks": encoder,
            "num_decoder_blocks": decoder,
            "encoder_block_out_channels": [width] * len(encoder),
            "decoder_block_out_channels": [decoder_width] * len(decoder),
            "pooled": any(".pool." in name for name in shapes),
        }
        return super().of(found, source)


class TAESD(AutoencoderTiny):
    """Its tensors have the names of ``AutoencoderTiny``."""

    def __init__(self, config: TAESDConfig) -> None:
        super().__init__(config, pooled=config.pooled)


def _blocks(names: Iterable[str], part: str) -> list[int]:
    """The blocks of each stage: between stages there is a convolution without a bias."""
    layers: dict[int, set[str]] = {}
    for name in names:
        side, number, *rest = name.split(".")
        if side == part and number.isdigit():
            layers.setdefault(int(number), set()).add(".".join(rest))
    counts = [0]
    for _, tensors in sorted(layers.items()):
        if "conv.0.weight" in tensors:
            counts[-1] += 1
        elif "bias" not in tensors:
            counts.append(0)
    return counts
