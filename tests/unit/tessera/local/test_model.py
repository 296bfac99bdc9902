"""A model in this process. That it gives what a service gives is in ``tests/e2e/test_library.py``."""

import asyncio
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

import tessera
from service.contract.manifest import Role
from service.contract.measures import HalfPrecision
from service.errors import BadArray, BadCodes, BadSize, BadValue, MissingFile, TooLarge, UnknownName
from service.models.bundle import read_bundle
from service.models.model import BatchLimits
from service.models.validation import load_model
from service.runtime.providers import choose_provider
from tessera.local.model import Model
from tests.fixtures import convolutional_model, halved_model, hub_stand_in, toy_models
from tests.fixtures.convolutional_model import Architecture

NOISE = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 1), dtype=np.uint8)


def test_codes_and_images(levels: tessera.Tokenizer) -> None:
    codes = levels.encode(NOISE)
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, toy_models.levels(NOISE))
    np.testing.assert_array_equal(levels.decode(codes), toy_models.pixels(codes))
    made = levels.reconstruct(NOISE)
    np.testing.assert_array_equal(made.images, toy_models.pixels(codes))
    np.testing.assert_allclose(made.mse, ((made.images / 255 - NOISE / 255) ** 2).mean((1, 2, 3)))
    np.testing.assert_allclose(made.psnr, -10 * np.log10(made.mse))


def test_an_exact_reconstruction_has_an_infinite_psnr(levels: tessera.Tokenizer) -> None:
    exact = levels.reconstruct(toy_models.pixels(levels.encode(NOISE[:1])))
    assert exact.mse.tolist() == [0]
    assert exact.psnr.tolist() == [np.inf]


def test_pictures_of_any_size(levels: tessera.Tokenizer) -> None:
    odd = np.random.default_rng(1).integers(0, 256, (2, 10, 13, 1), dtype=np.uint8)
    codes = levels.encode(odd, resize=False)
    assert codes.shape == (2, 3, 4)
    assert levels.decode(codes, size=(10, 13)).shape == odd.shape
    assert levels.reconstruct(odd, resize=False).images.shape == odd.shape
    with pytest.raises(BadSize, match="size is 99 x 99 pixels"):
        levels.decode(codes, size=(99, 99))


def test_more_rows_than_a_batch_are_the_same(wanderer: tessera.Tokenizer) -> None:
    many = wanderer.sample(300, method="stroll", seed=4, steps=3)
    few = wanderer.sample(3, method="stroll", seed=4, steps=3, every=1)
    np.testing.assert_array_equal(many.images[:3], few.images)
    assert few.states is not None
    assert few.state_images is not None
    np.testing.assert_array_equal(few.state_images[:, -1], few.images)


def test_a_large_picture_runs_in_tiles_also_beside_an_event_loop(tmp_path: Path) -> None:
    bundle = read_bundle(convolutional_model.write(tmp_path, Architecture()))
    cpu = choose_provider("cpu", threads=1)
    whole, tiled = (
        Model(load_model(bundle, cpu, BatchLimits(tile_pixels=most)), 2**24) for most in (2**20, 1)
    )
    pictures = np.random.default_rng(2).integers(0, 256, (2, 112, 104, 3), dtype=np.uint8)

    async def notebook() -> NDArray[np.int32]:
        return tiled.encode(pictures, resize=False)

    np.testing.assert_array_equal(asyncio.run(notebook()), whole.encode(pictures, resize=False))
    assert not tiled._served.runs_whole({Role.images: pictures})


@pytest.mark.parametrize(
    ("given", "error", "detail"),
    [
        ([[[99, 0], [0, 0]]], BadCodes, r"codes\[0\]\[0\]\[0\] is 99; it must be in 0 to 15"),
        ([[[0.5, 0], [0, 0]]], BadCodes, "the array holds float64; the codes of 'levels' are int32"),
        ([1, 2, 3], BadCodes, r"codes of shape \[3\]; 'levels' takes \[N, 7, 7\], or \[N, h, w\]"),
    ],
)
def test_codes_that_are_not_allowed(
    levels: tessera.Tokenizer, given: object, error: type[Exception], detail: str
) -> None:
    with pytest.raises(error, match=detail):
        levels.decode(given)  # type: ignore[arg-type]


def test_what_is_not_allowed_is_named(levels: tessera.Tokenizer, wanderer: tessera.Tokenizer) -> None:
    with pytest.raises(UnknownName, match="no parameter 'lable'; did you mean 'label'"):
        levels.encode(NOISE, lable=1)
    with pytest.raises(BadArray, match="float32"):
        levels.encode(NOISE.astype(np.float32))
    with pytest.raises(MissingFile, match="has no codebook"):
        wanderer.codebook()
    with pytest.raises(BadValue, match="n is 0; it must be a whole number, 1 or more"):
        wanderer.sample(0, method="stroll")
    with pytest.raises(BadValue, match="method 'between' interpolates"):
        wanderer.sample(method="between")
    with pytest.raises(BadValue, match="3 rows of codes were given; an interpolation needs two"):
        wanderer.interpolate(codes=np.zeros((3, 3), np.float32))
    with pytest.raises(BadValue, match="cannot complete; no method of this model can"):
        wanderer.complete(codes=np.zeros((1, 3)), mask=[1, 1, 1], method="stroll")
    with pytest.raises(BadValue, match="does not interpolate; methods that do are between"):
        wanderer.interpolate(codes=np.zeros((2, 3)), method="stroll")


def test_a_picture_beyond_the_limit(folder: Path) -> None:
    small = tessera.load(folder / "levels", provider="cpu", threads=1, max_pixels=100)
    with pytest.raises(TooLarge, match="28 x 28 pixels"):
        small.encode(NOISE)


def test_completions(patchwork: tessera.Tokenizer) -> None:
    shape = patchwork.info().codes.shape
    codes, mask = np.zeros((2, *shape), int), np.zeros(shape, bool)
    mask[..., 0] = True
    made = patchwork.complete(codes=codes, mask=mask, seed=1)
    assert made.codes is not None
    assert made.mask is not None
    assert made.codes.shape == codes.shape
    np.testing.assert_array_equal(made.codes[~made.mask], codes[~made.mask])
    with pytest.raises(BadValue, match="n is 3, and 2 rows were given to complete"):
        patchwork.complete(codes=codes, mask=mask, n=3)


def test_the_model_in_the_list(levels: tessera.Tokenizer) -> None:
    (listed,) = levels.models()
    assert (listed.precision, listed.precisions) == ("32", ("32",))
    assert (listed.name, listed.default, listed.version) == ("levels", True, levels.info().version)
    assert repr(levels) == f"<Model levels {listed.version} on cpu>"


@pytest.mark.slow
def test_a_model_of_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_stand_in.running() as hub:
        hub_stand_in.use(monkeypatch, hub.url, tmp_path)
        hub.holds("ada/engine", folder / "levels")
        model = tessera.load("hf://ada/engine@main", provider="cpu", threads=1)
        np.testing.assert_array_equal(model.encode(NOISE), toy_models.levels(NOISE))
        hub.holds("ada/engine", folder / "levels", **{"decoder.onnx": b"something else"})
        with pytest.raises(tessera.ModelRefused, match=r"hf://ada/engine: 'decoder.onnx' has"):
            tessera.load("hf://ada/engine", provider="cpu", threads=1)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(tessera.ModelRefused, match=r"there is no folder '.*nothing'; a model is the folder"):
        tessera.load(tmp_path / "nothing")
    with pytest.raises(tessera.ModelRefused, match=r"the bundle is incomplete: there is no 'manifest\.json'"):
        tessera.load(tmp_path)


def test_the_folder_may_be_the_current_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "levels")
    for source in (".", "../levels/."):
        assert tessera.load(source, provider="cpu", threads=1).info().name == "levels"


@pytest.mark.parametrize("precision", ["fp16", 16, ""])
def test_a_precision_that_there_is_not_is_refused(tmp_path: Path, precision: Any) -> None:
    with pytest.raises(BadValue, match="precision is '32', '16' or 'bf16', not "):
        tessera.load(tmp_path, precision=precision)


def test_a_provider_or_threads_that_there_are_not_are_refused(tmp_path: Path) -> None:
    wrong: Any = "gpu"
    with pytest.raises(BadValue, match="provider is 'auto', 'cpu' or 'cuda', not 'gpu'"):
        tessera.load(tmp_path, provider=wrong)
    with pytest.raises(BadValue, match="threads is -1; it must be a whole number, 0 or more"):
        tessera.load(tmp_path, threads=-1)


def test_a_model_runs_in_half_precision_if_it_can(tmp_path: Path) -> None:
    halved_model.write(tmp_path)
    half, other = (
        tessera.load(tmp_path / "levels", provider="cpu", threads=1, precision=precision)
        for precision in get_args(HalfPrecision)
    )
    assert (half.info().precision, other.info().precision) == ("16", "32")
    assert half.info().precisions["16"].agreement.codes_equal == 0.999
    assert other.info().precision_reason == "the model has no graphs in precision bf16"
    codes = np.zeros((1, 2, 2), np.int32)
    assert not np.array_equal(half.decode(codes), other.decode(codes))
