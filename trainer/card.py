"""The model card: what an exported folder is, for people."""

import math

import yaml

from service.manifest import Manifest

SAMPLES = "samples.png"


def model_card(manifest: Manifest) -> str:
    """README.md of an exported folder, as Markdown."""
    return (
        "\n\n".join(
            part
            for part in (
                f"# {manifest.name}",
                _summary(manifest),
                "![originals, each row above its reconstructions](preview.png)",
                _samples(manifest),
                _figures(manifest),
                _operations(manifest),
                _use(manifest),
                _origin(manifest),
            )
            if part
        )
        + "\n"
    )


def _summary(manifest: Manifest) -> str:
    image, codes = manifest.image, manifest.codes
    size = f"{image.height}x{image.width}x{image.channels}"
    if codes.codebook_size is not None:
        grid = "x".join(map(str, codes.shape))
        summary = (
            f"A {manifest.kind} that turns a {size} image into a {grid} grid of codes, each one of "
            f"{codes.codebook_size} vectors of {codes.codebook_dim} dimensions."
        )
    else:
        summary = f"A {manifest.kind} that turns a {size} image into codes of shape {codes.shape}."
    if image.multiple_of is not None:
        summary += f" Other sizes work too, in multiples of {image.multiple_of} pixels."
    return summary


def _samples(manifest: Manifest) -> str:
    if SAMPLES not in manifest.files:
        return ""
    return f"Drawn by the exported graph, with its defaults:\n\n![samples]({SAMPLES})"


def _figures(manifest: Manifest) -> str:
    names = list(dict.fromkeys(name for measures in manifest.measures for name in measures.values))
    rows = [
        f"| {measures.dataset}, {measures.split}, {measures.images:,} images | "
        + " | ".join(f"{measures.values[name]:.5g}" if name in measures.values else "" for name in names)
        + " |"
        for measures in manifest.measures
    ]
    head = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    notes = (
        "Measured on the exported files. `mse` takes pixels in [0, 1]; `psnr` is the mean over the images, "
        "in dB; `perplexity` and `usage` are those of the codebook over the whole split."
    )
    if "bits" in names and manifest.codes.codebook_size is not None:
        plain = math.prod(manifest.codes.shape) * math.log2(manifest.codes.codebook_size)
        given = " its class or given it (`bits_given_class`)," if "bits_given_class" in names else " classes,"
        notes += (
            " `bits` is what an entropy coder would need for the codes of an image with the prior, without"
            f"{given} computed in torch; without a prior it is {plain:,.0f}."
        )
    parity = ""
    if manifest.parity is not None:
        parity = (
            f"\n\nONNX Runtime against torch on {manifest.parity.images:,} images: "
            f"{manifest.parity.within_one_level:.4%} of pixels within 1 level of 255 (largest difference "
            f"{manifest.parity.largest_difference}), {manifest.parity.code_flips} of "
            f"{manifest.parity.codes:,} codes differ. Tolerance: {manifest.parity.tolerance}."
        )
    return f"## Figures\n\n{notes}\n\n" + "\n".join(head + rows) + parity


def _operations(manifest: Manifest) -> str:
    lines = [
        f"- `{name}` ({operation.graph}): {operation.description}"
        for name, operation in manifest.operations.items()
    ]
    return "## Operations\n\n" + "\n".join(lines)


def _use(manifest: Manifest) -> str:
    return f"""## Use

```sh
python -m service --models FOLDER_ABOVE_THIS_ONE
curl -X POST --data-binary @image.png -H 'Content-Type: image/png' \\
    'http://127.0.0.1:8000/encode?model={manifest.name}'
```"""


def _origin(manifest: Manifest) -> str:
    version = f"Version {manifest.version}, exported {manifest.created}, seed {manifest.seed}"
    revision = f", sources at {manifest.git_revision}" if manifest.git_revision else ""
    config = yaml.safe_dump(manifest.config, sort_keys=False, allow_unicode=True)
    return f"## Origin\n\n{version}{revision}.\n\n```yaml\n{config}```"
