"""The commands of the library, and their flags."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import orjson
from numpy.typing import NDArray

from service.codecs import npy
from service.codecs.images import to_png
from service.contract import __version__
from service.contract.image_grid import grid
from service.errors import BadCodes, VersionConflict
from tessera.inputs import Box, read_codes
from tessera.interface import Tokenizer
from tessera.loading import load
from tessera.remote.client import Client
from tessera.results import Samples

STDOUT = "-"


class _Parameter(click.ParamType[tuple[str, float]]):
    """``NAME=NUMBER``."""

    name = "NAME=NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        name, equals, number = str(value).partition("=")
        try:
            return name, float(number) if not number.lstrip("-").isdecimal() else int(number)
        except ValueError:
            self.fail(f"{value!r} is no {'number after =' if equals else 'NAME=NUMBER'}", param, ctx)


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers with a separator between them."""

    def __init__(self, shown: str, separator: str) -> None:
        self.name, self._separator, self._count = shown, separator, len(shown.split(separator))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        parts = str(value).split(self._separator)
        if len(parts) != self._count or not all(part.strip().isdecimal() for part in parts):
            self.fail(f"{value!r} is not {self.name} in whole pixels", param, ctx)
        return tuple(map(int, parts))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tessera")
def commands() -> None:
    """Turn pictures into codes and back, by a model in this process or by a service."""


def _flags(*further: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The flags of every command, and after them some further ones."""
    flags = [
        click.option("--model", metavar="MODEL", help="Folder of a model, or hf://owner/name@revision; with "
                     "--url the name of a model of the service, which may have a default."),
        click.option("--url", metavar="URL", envvar="TESSERA_URL", help="Service that runs the model. Unset: "
                     "the variable TESSERA_URL; without it the model runs in this process."),
        click.option("--key", metavar="KEY", envvar="TESSERA_CLIENT_KEY", help="Key of the service. Unset: "
                     "the variable TESSERA_CLIENT_KEY, which other users of the machine cannot read."),
        *further,
    ]  # fmt: skip

    def decorated(function: Callable[..., None]) -> Callable[..., None]:
        for flag in reversed(flags):
            function = flag(function)
        return function

    return decorated


_OUT = click.option("-o", "--out", metavar="FILE", default=STDOUT, help="File to write. Unset: stdout.")
_PICTURES = click.argument("pictures", nargs=-1, required=True)
_RESIZE = click.option("--resize/--no-resize", default=True, show_default=True,
                       help="Make pictures fit the size of the model; else they keep theirs.")  # fmt: skip
_RUN = (
    click.option("--label", metavar="CLASS", multiple=True, help="Class by index or name; repeatable, one "
                 "for each row."),
    click.option("--seed", metavar="N", type=int, help="Seed: the same one gives the same result."),
    click.option("-p", "--parameter", "parameters", type=_Parameter(), multiple=True,
                 help="Parameter of the model, as in temperature=0.9; repeatable."),
)  # fmt: skip
_SAMPLER = (
    click.option("-n", "--n", "n", metavar="N", type=int, help="How many."),
    click.option("--method", metavar="NAME", help="How to sample. Unset: the method of the model."),
)


@commands.command()
@_PICTURES
@_flags(_OUT, _RESIZE, *_RUN)
def encode(pictures: tuple[str, ...], out: str, resize: bool, **flags: Any) -> None:
    """Encode PICTURES: codes as JSON, or as npy if FILE ends in .npy."""
    with _model(flags) as model:
        codes = model.encode(pictures, resize=resize, **_options(flags))
        info = model.info()
    if out.endswith(".npy"):
        _write(npy.dump(codes), out)
        return
    members = {"model": info.name, "version": info.version, "shape": codes.shape, "dtype": str(codes.dtype)}
    _write(_json(members | {"codes": codes}), out)


@commands.command()
@click.argument("codes")
@_flags(_OUT, click.option("--size", type=_Numbers("HEIGHTxWIDTH", "x"),
                           help="Size of the pictures before they were padded."), *_RUN)  # fmt: skip
def decode(codes: str, out: str, size: tuple[int, int] | None, **flags: Any) -> None:
    """Decode CODES, a file of encode (- is stdin): a PNG, with several images as a grid, or an npy."""
    array, version = _codes(codes)
    with _model(flags) as model:
        if version is not None and version != (served := model.info().version):
            detail = f"the codes are of version {version!r} of the model, and this is version {served!r}"
            raise VersionConflict(detail, given=version, allowed=served)
        _write_images(model.decode(array, size=size, **_options(flags)), out)


@commands.command()
@_PICTURES
@_flags(_OUT, _RESIZE, *_RUN)
def reconstruct(pictures: tuple[str, ...], out: str, resize: bool, **flags: Any) -> None:
    """Encode PICTURES and decode their codes: a PNG or an npy, and the PSNR of each on stderr."""
    with _model(flags) as model:
        made = model.reconstruct(pictures, resize=resize, **_options(flags))
    _write_images(made.images, out)
    for picture, psnr in zip(pictures, made.psnr, strict=True):
        sys.stderr.write(f"{picture}: {psnr:.2f} dB\n")


@commands.command()
@_PICTURES
@_flags(_OUT, _RESIZE, *_RUN)
def score(pictures: tuple[str, ...], out: str, resize: bool, **flags: Any) -> None:
    """Score how likely the model finds PICTURES: figures as JSON, in nats."""
    with _model(flags) as model:
        scores = model.score(pictures, resize=resize, **_options(flags))
    _write(_json({"seed": scores.seed, "parameters": scores.parameters, "figures": scores.figures}), out)


@commands.command()
@_flags(_OUT, *_SAMPLER, *_RUN)
def sample(out: str, **flags: Any) -> None:
    """Draw new images: a PNG or an npy, and the seed on stderr."""
    with _model(flags) as model:
        _write_samples(model.sample(flags["n"], method=flags["method"], **_options(flags)), out)


@commands.command()
@_PICTURES
@_flags(_OUT, click.option("--box", required=True, type=_Numbers("LEFT,TOP,RIGHT,BOTTOM", ","),
                           help="Part to draw anew, in pixels of the upright picture."),
        *_SAMPLER, *_RUN)  # fmt: skip
def complete(pictures: tuple[str, ...], out: str, box: Box, **flags: Any) -> None:
    """Draw a part of PICTURES anew, and keep the rest: a PNG or an npy, and the seed on stderr."""
    with _model(flags) as model:
        more = {"n": flags["n"], "method": flags["method"], **_options(flags)}
        _write_samples(model.complete(pictures, box=box, **more), out)


@commands.command()
@click.argument("pictures", nargs=2)
@_flags(_OUT, *_SAMPLER, *_RUN)
def interpolate(pictures: tuple[str, str], out: str, **flags: Any) -> None:
    """Go from one of two PICTURES to the other: a PNG with a row of images, or an npy."""
    with _model(flags) as model:
        more = {"n": flags["n"], "method": flags["method"], **_options(flags)}
        samples = model.interpolate(pictures, **more)
    _write_samples(samples, out, columns=len(samples.images))


@commands.command()
@_flags(_OUT)
def codebook(out: str, **flags: Any) -> None:
    """Write the code vectors of the model, as npy."""
    with _model(flags) as model:
        _write(npy.dump(model.codebook()), out)


@commands.command()
@_flags(_OUT)
def info(out: str, **flags: Any) -> None:
    """Show the model as JSON: inputs, outputs, operations with their parameters, metrics."""
    with _model(flags) as model:
        _write(model.info().model_dump_json(indent=2).encode() + b"\n", out)


@commands.command()
@_flags(_OUT)
def models(out: str, **flags: Any) -> None:
    """List the models of the service as JSON."""
    with _model(flags) as model:
        _write(_json([each.model_dump(mode="json") for each in model.models()]), out)


def _model(flags: dict[str, Any]) -> Tokenizer:
    """The model of the flags, which are taken out of them."""
    model, url, key = (flags.pop(name) for name in ("model", "url", "key"))
    if url is not None:
        return Client(url, key, model=model)
    if model is None:
        raise click.UsageError("choose a model: --model FOLDER, or --url URL of a service")
    return load(model)


def _options(flags: Mapping[str, Any]) -> dict[str, Any]:
    label = flags["label"]
    given = label[0] if len(label) == 1 else list(label) or None
    return {"label": given, "seed": flags["seed"], **dict(flags["parameters"])}


def _codes(name: str) -> tuple[NDArray[Any], str | None]:
    """The codes of a file, npy or JSON, and the version of their model, if it is named."""
    data = sys.stdin.buffer.read() if name == STDOUT else Path(name).read_bytes()
    if data.startswith(npy.MAGIC):
        return npy.load(data), None
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BadCodes(f"{name} is neither npy nor JSON: {error}") from error
    if isinstance(document, dict) and "codes" in document:
        return read_codes(document["codes"]), document.get("version")
    raise BadCodes(f"{name} has no codes; it must be what encode writes")


def _write_samples(samples: Samples, out: str, columns: int | None = None) -> None:
    _write_images(samples.images, out, columns)
    sys.stderr.write(f"seed {samples.seed}\n")


def _write_images(images: NDArray[np.uint8], out: str, columns: int | None = None) -> None:
    _write(npy.dump(images) if out.endswith(".npy") else to_png(grid(images, columns)), out)


def _json(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _write(content: bytes, out: str) -> None:
    if out != STDOUT:
        Path(out).write_bytes(content)
        return
    if sys.stdout.isatty() and not content.startswith((b"{", b"[")):
        raise click.UsageError("a terminal shows no binary file; name one with --out")
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()
