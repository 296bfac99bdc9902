"""The client of diffusers as it is, with all its parameters, against the remote VAE."""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.fixtures import latents_model
from tests.fixtures.latents_model import CELLS, CHANNELS, NAME, SCALING, SIDE
from tests.fixtures.processes import serving

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    # Its imports warn of what other packages of the environment deprecate.
    warnings.simplefilter("ignore")
    pytest.importorskip("diffusers")
    from diffusers.image_processor import VaeImageProcessor
    from diffusers.utils.remote_utils import remote_decode, remote_encode

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore:.*do_scaling.* is deprecated:FutureWarning"),
]

DTYPES = {"float32": 2e-7, "float16": 1e-3, "bfloat16": 8e-3}
"""The dtypes of a tensor, and the largest error of a number in [-1, 1]."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("models")
    latents_model.write(folder)
    with serving(folder, "--provider=cpu", "--workers=1") as url:
        yield f"{url}/diffusers/{NAME}"


def grids(rows: int, cells: tuple[int, int] = (CELLS, CELLS)) -> NDArray[np.float32]:
    """Codes whose images have no two neighbouring patches of one colour."""
    random = np.random.default_rng(rows)
    return random.uniform(-1, 1, (rows, *cells, CHANNELS)).astype(np.float32)


def packed(latents: Any) -> Any:
    """Latents ``(n, c, h, w)`` as the pipeline of Flux has them."""
    n, c, h, w = latents.shape
    squares = latents.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(n, h // 2 * w // 2, c * 4)


def sent(codes: NDArray[np.float32], dtype: str, factor: float, shift: float, *, pack: bool) -> Any:
    """The latents of some codes, as a pipeline has them."""
    latents = (torch.from_numpy(codes).permute(0, 3, 1, 2) - shift) * factor
    return (packed(latents) if pack else latents).to(getattr(torch, dtype)).contiguous()


def preprocessed(image: Image.Image) -> Any:
    """A picture as a pipeline hands it to its encoder; contiguous, or the client would send freed memory."""
    return VaeImageProcessor(vae_scale_factor=latents_model.PATCH).preprocess(image).contiguous()


SCALES: dict[str, tuple[dict[str, Any], tuple[float, float]]] = {
    "given": ({"scaling_factor": 0.5, "shift_factor": 0.25}, (0.5, 0.25)),
    "factor alone": ({"scaling_factor": 0.5}, (0.5, 0.0)),
    "shift alone": ({"do_scaling": True, "shift_factor": 0.25}, (SCALING.factor, 0.25)),
    "the model's own": ({}, (SCALING.factor, SCALING.shift)),
    "none": ({"do_scaling": False}, (1.0, 0.0)),
    "given and not wanted": ({"do_scaling": None, "scaling_factor": 0.5, "shift_factor": 0.25}, (1.0, 0.0)),
}
OUTPUTS = [
    (output_type, return_type, image_format, partial, with_processor)
    for output_type, return_type, image_format, partial, with_processor in itertools.product(
        ("pil", "pt"), ("pil", "pt"), ("png", "jpg"), (False, True), (False, True)
    )
    # What the client itself refuses, or has no result for.
    if not (output_type == "pt" and return_type == "pil" and not partial and not with_processor)
    and not (output_type == "pil" and return_type == "pt" and not with_processor)
]


def as_levels(made: Any, *, partial: bool, output_type: str) -> NDArray[np.float32]:
    """What the client returns, in any form, as 0 to 255 of shape ``(n, H, W, 3)``."""
    if isinstance(made, Image.Image):
        return np.asarray(made, np.float32)[None]
    if isinstance(made, list):
        return np.stack([np.asarray(each, np.float32) for each in made])
    if output_type == "pt" and partial:
        assert made.dtype == torch.uint8
        return np.asarray(made.float().numpy())
    values = made.float().permute(0, 2, 3, 1).numpy()
    return np.asarray(values * 255 if output_type == "pil" else (values + 1) * 127.5)


@pytest.mark.parametrize("pack", [False, True], ids=["grid", "packed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decode_with_every_scale_and_in_every_output(url: str, dtype: str, pack: bool) -> None:
    codes = grids(1, (CELLS, CELLS + 4))
    height, width = SIDE, SIDE + 16
    # Half a level for the dtype of the latents, and one for that of an image.
    tolerance = {"float32": 0.01, "float16": 1, "bfloat16": 3}[dtype]
    # Scales are undone before and outputs made after the decoding, so each of one meets some of the other.
    for (flags, (factor, shift)), output in zip(itertools.cycle(SCALES.values()), OUTPUTS, strict=False):
        output_type, return_type, image_format, partial, with_processor = output
        latents = sent(codes, dtype, factor, shift, pack=pack)
        made = remote_decode(
            endpoint=f"{url}/decode",
            tensor=latents,
            processor=VaeImageProcessor() if with_processor else None,
            output_type=output_type,
            return_type=return_type,
            image_format=image_format,
            partial_postprocess=partial,
            **({"height": height, "width": width} if pack else {}),
            **flags,
        )
        plain = latents.float().numpy()
        if pack:
            plain = (
                sent(codes, "float32", factor, shift, pack=False).to(getattr(torch, dtype)).float().numpy()
            )
        want = latents_model.pixels(plain.transpose(0, 2, 3, 1) / factor + shift).astype(np.float32)
        found = as_levels(made, partial=partial, output_type=output_type)
        case = (flags, output)
        assert found.shape == (1, height, width, 3), case
        is_jpeg = output_type == "pil" and not with_processor and image_format == "jpg"
        if is_jpeg:
            assert np.abs(found - want).mean() < 20, case
        else:
            assert np.abs(found - want).max() <= tolerance, case
        if isinstance(made, Image.Image) and output_type == "pil" and not with_processor:
            assert made.format == {"png": "png", "jpg": "jpeg"}[image_format], case
        if not isinstance(made, Image.Image | list) and not (output_type == "pt" and partial):
            assert made.dtype == latents.dtype, case


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_rows(url: str, dtype: str) -> None:
    codes = grids(3)
    latents = sent(codes, dtype, 1, 0, pack=False)
    made = remote_decode(
        f"{url}/decode", latents, do_scaling=False, output_type="pt", partial_postprocess=True
    )
    assert [each.size for each in made] == [(SIDE, SIDE)] * 3
    tensor = remote_decode(f"{url}/decode", latents, do_scaling=False, output_type="pt", return_type="pt")
    assert tensor.shape == (3, 3, SIDE, SIDE)
    assert tensor.dtype == latents.dtype
    with pytest.raises(RuntimeError, match="output_type=pil gives one picture; use output_type=pt"):
        remote_decode(f"{url}/decode", latents, do_scaling=False)


@pytest.mark.parametrize("dtype", [*DTYPES, "picture"])
@pytest.mark.parametrize("shift", [None, 0.1159])
@pytest.mark.parametrize("factor", [None, 0.3611])
def test_encode_in_every_combination(url: str, dtype: str, factor: float | None, shift: float | None) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE + 8, 3), dtype=np.uint8)
    image: Any = Image.fromarray(pixels[0])
    if dtype != "picture":
        image = preprocessed(image).to(getattr(torch, dtype))
        pixels = np.rint((image.float().permute(0, 2, 3, 1).numpy() + 1) * 127.5).astype(np.uint8)
    made = remote_encode(f"{url}/encode", image, scaling_factor=factor, shift_factor=shift)
    want = (latents_model.means(pixels) - (shift or 0)) * (factor or 1)
    assert made.dtype == (torch.float32 if dtype == "picture" else image.dtype)
    assert made.shape == (1, CHANNELS, CELLS, CELLS + 2)
    found = made.float().permute(0, 2, 3, 1).numpy()
    assert np.abs(found - want).max() <= DTYPES.get(dtype, 2e-7) * 2


def test_a_picture_of_any_size_is_shrunk_as_diffusers_does(url: str) -> None:
    image = Image.effect_noise((SIDE + 3, SIDE + 1), 60).convert("RGB")
    made = remote_encode(f"{url}/encode", image)
    assert made.shape == (1, CHANNELS, CELLS, CELLS)
    assert torch.equal(made, remote_encode(f"{url}/encode", preprocessed(image)))


def test_a_seed_in_the_endpoint_draws(url: str) -> None:
    image = Image.new("RGB", (SIDE, SIDE), (9, 99, 199))
    mean, drawn, again = (
        remote_encode(f"{url}/encode{query}", image) for query in ("", "?seed=1", "?seed=1")
    )
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, mean)


def test_there_and_back(url: str) -> None:
    pixels = grids(1).repeat(4, axis=1).repeat(4, axis=2)[..., :3]
    image = Image.fromarray(((pixels[0] + 1) * 127.5).astype(np.uint8))
    latents = remote_encode(f"{url}/encode", image, SCALING.factor, SCALING.shift)
    made = remote_decode(f"{url}/decode", latents, image_format="png")
    assert np.array_equal(np.asarray(made), np.asarray(image))


def test_errors_reach_the_caller(url: str) -> None:
    with pytest.raises(RuntimeError, match="models here make images, no videos"):
        remote_decode(f"{url}/decode", torch.zeros(1, 4, 8, 8), output_type="mp4")
    with pytest.raises(RuntimeError, match=r"the latents have the shape \[1, 3, 8, 8\]; they are \[n, 4, h"):
        remote_decode(f"{url}/decode", torch.zeros(1, 3, 8, 8))
    with pytest.raises(RuntimeError, match="there is no model 'mosaics'; did you mean 'mosaic'"):
        remote_encode(f"{url}s/encode", Image.new("RGB", (32, 32)))
