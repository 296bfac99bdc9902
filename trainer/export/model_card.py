"""The model card: README.md of an exported folder."""

import math
from collections.abc import Sequence

import yaml

from service.contract.manifest import Manifest, Measures, Operation, PrecisionGraphs, Role
from trainer.evaluation.exported_model import SAMPLE
from trainer.evaluation.reconstructions import shortcomings
from trainer.evaluation.results import REAL_IMAGES
from trainer.export.descriptions import DESCRIPTIONS
from trainer.image_sheets import MOST_CLASSES

CARD, SAMPLES = "README.md", "samples.png"
SHOWN_SEED = 0


def model_card(manifest: Manifest) -> str:
    """README.md of an exported folder, as Markdown."""
    return (
        "\n\n".join(
            part
            for part in (
                f"# {manifest.name}",
                _summary(manifest),
                _shortcomings(manifest),
                "![originals, each row above its reconstructions](preview.png)",
                _samples(manifest),
                _metrics(manifest),
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
    size, shape = f"{image.height}x{image.width}x{image.channels}", "x".join(map(str, codes.shape))
    if codes.codebook_size is not None:
        grid = f"{shape} grids of codes" if len(codes.shape) > 1 else f"sequences of {shape} codes"
        of = f"vectors of {codes.codebook_dim} dimensions" if codes.codebook_dim else "codes"
        summary = f"Turns {size} images into {grid}, each one of {codes.codebook_size} {of}."
        if codes.level_grids is not None:
            grids = ", ".join(f"{side}x{side}" for side in codes.level_grids)
            summary += f" They are grids of {grids} cells, from coarse to fine."
    elif codes.stride is not None:
        summary = f"Turns {size} images into {shape} grids of numbers, the latents."
        if codes.scaling is not None:
            summary += (
                f" Those of a diffusion model are (codes - {codes.scaling.shift:g}) * "
                f"{codes.scaling.factor:g}."
            )
    else:
        summary = f"Turns {size} images into vectors of {math.prod(codes.shape)} numbers."
    summary += f" Its kind is `{manifest.kind}`."
    if (origin := manifest.config.get("origin")) is not None:
        version = f", version {origin['version']}" if origin["version"] else ""
        encoder = "whose codes it keeps" if manifest.config["freeze_encoder"] else "whose codes are others"
        summary += (
            f" It was fine-tuned from `{origin['name']}`{version}, {encoder}: an import of the family "
            f"`{origin['family']}`, checkpoint `{origin['checkpoint']['file']}`."
        )
    if image.multiple_of is not None:
        summary += f" Other sizes work too, in multiples of {image.multiple_of} pixels."
    return summary


def _shortcomings(manifest: Manifest) -> str:
    found = shortcomings(manifest.measures, manifest.codes)
    return "" if found is None else f"> **Warning.** {found}"


def _samples(manifest: Manifest) -> str:
    if SAMPLES not in manifest.files:
        return ""
    columns, names = "", manifest.labels or ()
    if names:
        few = len(names) <= MOST_CLASSES
        each = "class" if few else f"of the first {MOST_CLASSES} of {len(names):,} classes"
        columns = f", a column for each {each}: {', '.join(f'`{name}`' for name in names[:MOST_CLASSES])}"
    return f"Drawn with the defaults and the seed {SHOWN_SEED}{columns}.\n\n![samples]({SAMPLES})"


def _metrics(manifest: Manifest) -> str:
    tables = [
        _table([row for row in manifest.measures if _group(row) == group])
        for group in dict.fromkeys(map(_group, manifest.measures))
    ]
    named = {name for row in manifest.measures for name in row.values}
    notes = [
        f"- `{name}`: {description}."
        for name, description in _descriptions(manifest).items()
        if name in named
    ]
    said = "Measured on the exported files." if tables else f"Compared on {manifest.config.get('data')}."
    parts = [
        "## Figures",
        said,
        *tables,
        "\n".join(notes),
        *map(_protocol, manifest.measures),
        _parity(manifest),
        *(_agreement(precision, half) for precision, half in manifest.precisions.items()),
    ]
    return "\n\n".join(part for part in parts if part)


def _group(row: Measures) -> str:
    """Samples of all samplers are in one table, with real images, which are the best that they can reach."""
    return "samples" if row.of.startswith(SAMPLE) or row.of == REAL_IMAGES else row.of


def _table(rows: Sequence[Measures]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [
        f"| {_title(row)} | "
        + " | ".join(f"{row.values[name]:.5g}" if name in row.values else "" for name in names)
        + " |"
        for row in rows
    ]
    return "\n".join([f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *lines])


def _title(row: Measures) -> str:
    if row.of.startswith(SAMPLE):
        return f"{row.of}: {row.images:,} beside images of {row.dataset}, {row.split}"
    return f"{row.of}: {row.dataset}, {row.split}, {row.images:,} images"


def _protocol(row: Measures) -> str:
    """How a row was measured, if it has a protocol."""
    if row.protocol is None:
        return ""
    settings = ", ".join(f"{name} {value}" for name, value in row.settings.items())
    return f"{row.of.capitalize()} by protocol `{row.protocol}`: {settings}."


def _descriptions(manifest: Manifest) -> dict[str, str]:
    """The description of each metric, by name."""
    descriptions = dict(DESCRIPTIONS)
    if manifest.codes.codebook_size is not None:
        plain = math.prod(manifest.codes.shape) * math.log2(manifest.codes.codebook_size)
        descriptions["bits"] += f"; without a prior it is {plain:,.0f}"
    for side in manifest.codes.level_grids or ():
        descriptions[f"perplexity_{side}x{side}"] = f"of the codebook in the level of {side}x{side} cells"
    return descriptions


def _parity(manifest: Manifest) -> str:
    parity = manifest.parity
    if parity is None:
        return ""
    codes = (
        f"{parity.code_flips} of {parity.codes:,} codes differ"
        if manifest.codes.codebook_size is not None
        else f"{parity.codes:,} numbers of the codes differ by at most {parity.flip_gap:.2g} of their size"
    )
    return (
        f"ONNX Runtime against torch on {parity.images:,} images: {parity.within_one_level:.4%} of pixels "
        f"within 1 level of 255 (largest difference {parity.largest_difference}), {codes}. "
        f"Tolerance: {parity.tolerance}."
    )


def _agreement(precision: str, half: PrecisionGraphs) -> str:
    """How closely the graphs in a half precision agreed with float32."""
    found, files = half.agreement, " and ".join(f"`{file}`" for file in half.graphs.values())
    return (
        f"Precision {precision} ({files}) against float32 on {found.images:,} images: "
        f"{found.codes_equal:.2%} of the codes are equal, {found.psnr_lost:.4f} dB are lost, and "
        f"{found.within_one_level:.4%} of the pixels of equal codes are within 1 level of 255. "
        "Measured on a CPU, with every rounding of an accelerator."
    )


def _operations(manifest: Manifest) -> str:
    lines = [
        f"- `{name}` ({_graphs(operation)}): {operation.description}{_tiling(operation)}"
        for name, operation in manifest.operations.items()
    ]
    return "## Operations\n\n" + "\n".join(lines)


def _graphs(operation: Operation) -> str:
    others = [f"{file} on {provider.upper()}" for provider, file in operation.provider_graphs.items()]
    return "; ".join([operation.graph, *others])


def _tiling(operation: Operation) -> str:
    if operation.untiled is not None:
        return f" It needs its whole input at once: {operation.untiled}."
    if operation.tiling is None:
        return ""
    size, halo = operation.tiling.receptive_field, operation.tiling.halo
    whole, part = ("pixels", "cell") if operation.takes(Role.images) else ("cells", "pixel")
    return f" A {part} depends on {size}x{size} {whole}; tiles need a halo of {halo} cells."


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
