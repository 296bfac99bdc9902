"""The names of tensors: from those in our architectures to those in the checkpoints of others."""

Renames = tuple[tuple[str, str], ...]
"""Regular expressions and replacements, applied one after the other to the name of a tensor."""

# More than any of TAESD's decoders has.
MOST_LAYERS = 64

# The codebook, in all of them.
CODEBOOK: Renames = ((r"^quantizer\.codebook$", "quantize.embedding.weight"),)

# Autoencoders of residual blocks in stages, in diffusers' names.
STAGES: Renames = (
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
ATTENTION: Renames = (
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
)
# Before its release 0.17.
OLDER_ATTENTION: Renames = ((r"(attentions\.\d+)\.out\.", r"\1.proj_attn."),)

# The decoder of TAESD begins with a layer that squashes latents and has no tensors; ours has it elsewhere.
CLAMP: Renames = tuple(
    (rf"^decoder\.{number}\.", f"decoder.{number + 1}.") for number in reversed(range(MOST_LAYERS))
)

# EfficientViT's blocks, in diffusers' names; those of our encoder and decoder that are not listed are alike.
DEEP_COMPRESSION: Renames = (
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

# The same autoencoders, as taming-transformers and those after it have them.
TAMING_ATTENTION: Renames = (
    (r"\.attentions\.", ".attn."),
    (r"\.query\.", ".q."),
    (r"\.key\.", ".k."),
    (r"\.value\.", ".v."),
    (r"\.out\.", ".proj_out."),
    (r"\.shortcut\.", ".nin_shortcut."),
)
TAMING_STAGES: Renames = (
    (r"\.stages\.", ".down."),
    (r"\.(down|up)\.(\d+)\.blocks\.", r".\1.\2.block."),
    (r"\.down\.(\d+)\.resample\.", r".down.\1.downsample."),
    (r"\.up\.(\d+)\.resample\.", r".up.\1.upsample."),
    (r"\.middle\.blocks\.0\.", ".mid.block_1."),
    (r"\.middle\.blocks\.1\.", ".mid.block_2."),
    (r"\.middle\.attention\.", ".mid.attn_1."),
)
LLAMAGEN_STAGES: Renames = (
    (r"\.stages\.(\d+)\.blocks\.", r".conv_blocks.\1.res."),
    (r"\.stages\.", ".conv_blocks."),
    (r"^encoder(.*)\.resample\.", r"encoder\1.downsample."),
    (r"^decoder(.*)\.resample\.", r"decoder\1.upsample."),
    (r"\.middle\.blocks\.0\.", ".mid.0."),
    (r"\.middle\.blocks\.1\.", ".mid.2."),
    (r"\.middle\.attention\.", ".mid.1."),
)
# The VQGAN of MaskGIT that a TiTok decodes with.
PIXEL_DECODER: Renames = (
    (r"^pixel_codebook$", "pixel_quantize.embedding.weight"),
    (r"\.shortcut\.", ".nin_shortcut."),
    (r"\.resample\.conv\.", ".upsample_conv."),
)


def averaged(names: Renames) -> tuple[Renames, Renames]:
    """The moving averages of the tensors, as a run with ``use_ema`` has them; and the tensors themselves."""
    return (*names, (r"\.", ""), (r"^", "model_ema.")), names
