import re
from typing import Any

import pytest
import yaml

from service.contract.manifest import CodesSpec, File, Manifest, Measures
from tests.fixtures.tiny_models import Trained
from trainer.config import validated
from trainer.evaluation.descriptions import DESCRIPTIONS
from trainer.export.model_card import model_card


@pytest.fixture
def manifest(trained: Trained) -> Manifest:
    return trained.exported.manifest


@pytest.fixture
def card(trained: Trained) -> str:
    return (trained.exported.folder / "README.md").read_text()


def test_it_says_what_the_model_is(card: str) -> None:
    assert card.startswith(
        "# tiny\n\nTurns 28x28x1 images into 7x7 grids of codes, each one of 16 vectors of 4 dimensions. "
        "Its kind is `vqvae`. Other sizes work too, in multiples of 4 pixels.\n"
    )


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (
            {"dtype": "float32", "shape": (7, 7, 4), "stride": 4, "scaling": {"factor": 0.5, "shift": 0.1}},
            "into 7x7x4 grids of numbers, the latents. Those of a diffusion model are (codes - 0.1) * 0.5.",
        ),
        (
            {"dtype": "int32", "shape": (32,), "codebook_size": 64, "codebook_dim": 12},
            "into sequences of 32 codes, each one of 64 vectors of 12 dimensions. Its",
        ),
        (
            {"dtype": "int32", "shape": (7, 7), "stride": 4, "codebook_size": 64},
            "into 7x7 grids of codes, each one of 64 codes. Its",
        ),
        ({"dtype": "float32", "shape": (32,)}, "into vectors of 32 numbers. Its"),
    ],
)
def test_it_says_what_the_codes_are(manifest: Manifest, codes: dict[str, Any], said: str) -> None:
    changes = {"codes": CodesSpec.model_validate(codes), "measures": ()}
    assert said in model_card(manifest.model_copy(update=changes))


def test_it_says_how_far_outputs_see(card: str, manifest: Manifest) -> None:
    assert "`encode` (encoder.onnx): " in card
    assert " A cell depends on 22x22 pixels; tiles need a halo of 3 cells.\n" in card
    assert " A pixel depends on 8x8 cells; tiles need a halo of 4 cells.\n" in card
    whole = manifest.operations["encode"].model_copy(update={"tiling": None, "untiled": "it has attention"})
    assert "It needs its whole input at once: it has attention.\n" in model_card(
        manifest.model_copy(update={"operations": {"encode": whole}})
    )


def test_it_has_the_figures_of_the_manifest(card: str, manifest: Manifest) -> None:
    measures, _ = manifest.measures
    cells = " | ".join(f"{value:.5g}" for value in measures.values.values())
    assert f"| | {' | '.join(measures.values)} |\n" in card
    assert f"| reconstructions: mnist, test, 100 images | {cells} |" in card
    assert manifest.parity is not None
    assert manifest.parity.tolerance in card


def test_it_warns_of_a_model_that_is_poor(card: str, manifest: Manifest) -> None:
    assert re.search(r"^> \*\*Warning\.\*\* This model is .*it was trained for 16 steps", card, re.MULTILINE)
    (measures, training), image = manifest.measures, "![originals"
    poor = measures.model_copy(update={"values": measures.values | {"explained_variance": 0.05}})
    warned = model_card(manifest.model_copy(update={"measures": (poor, training)}))
    assert "**Warning.** This model is poor: its reconstructions keep 5% of the variance" in warned
    # The warning comes before the pictures.
    assert warned.index("**Warning.**") < warned.index(image)
    good = (
        poor.model_copy(update={"values": poor.values | {"explained_variance": 0.95}}),
        training.model_copy(update={"values": {"steps": 14_040.0}}),
    )
    assert "Warning" not in model_card(manifest.model_copy(update={"measures": good}))


@pytest.mark.parametrize(
    ("classes", "caption"),
    [
        (0, "seed 0."),
        (2, "seed 0, a column for each class: `c0`, `c1`."),
        (300, "seed 0, a column for each of the first 100 of 300 classes: `c0`, "),
    ],
)
def test_it_names_the_columns_of_the_samples(manifest: Manifest, classes: int, caption: str) -> None:
    files = dict(manifest.files) | {"samples.png": File(sha256="0" * 64, size=1)}
    labels = tuple(f"c{index}" for index in range(classes)) or None
    card = model_card(manifest.model_copy(update={"files": files, "labels": labels}))
    assert caption in card
    assert "`c100`" not in card


def row(of: str, split: str, **values: float) -> Measures:
    return Measures(of=of, dataset="mnist", split=split, images=1000, values=values)


def test_samples_by_every_method_stand_in_one_table_with_the_real_images(manifest: Manifest) -> None:
    card = model_card(
        manifest.model_copy(
            update={
                "measures": (
                    row("reconstructions", "test", mse=0.25),
                    row("likelihood", "test", nll=99.5),
                    row("real images", "test", mnist_fd=0.5, accuracy=0.994),
                    row("sample/prior", "training", mnist_fd=7.0),
                    row("sample/langevin", "training", mnist_fd=1.5, acceptance_rate=0.75),
                )
            }
        )
    )
    assert (
        "| | mnist_fd | accuracy | acceptance_rate |\n"
        "|---|---|---|---|\n"
        "| real images: mnist, test, 1,000 images | 0.5 | 0.994 |  |\n"
        "| sample/prior: 1,000 beside images of mnist, training | 7 |  |  |\n"
        "| sample/langevin: 1,000 beside images of mnist, training | 1.5 |  | 0.75 |\n"
    ) in card
    assert "| | nll |\n|---|---|\n| likelihood: mnist, test, 1,000 images | 99.5 |\n" in card


def test_it_explains_the_figures_that_it_shows_and_no_others(card: str, manifest: Manifest) -> None:
    explained = re.findall(r"^- `(\w+)`: (.+)\.$", card, re.MULTILINE)
    assert {name for name, _ in explained} == {name for row in manifest.measures for name in row.values}
    assert all(text == DESCRIPTIONS[name] for name, text in explained)


def test_its_pictures_and_graphs_are_files_of_the_folder(card: str, manifest: Manifest) -> None:
    named = set(re.findall(r"\((\S+\.(?:png|onnx))\)", card))
    assert named == {"preview.png", "encoder.onnx", "decoder.onnx"}
    assert named <= manifest.files.keys()


def test_its_config_may_be_trained_again(card: str, manifest: Manifest) -> None:
    block = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert block is not None
    config = yaml.safe_load(block[1])
    assert config == manifest.config
    assert validated("vqvae", config).seed == manifest.seed


def test_it_says_where_it_comes_from(card: str, manifest: Manifest) -> None:
    assert f"Version {manifest.version}, exported {manifest.created}, seed 0" in card


def test_a_model_without_a_codebook_has_a_card_too(manifest: Manifest) -> None:
    continuous = manifest.model_copy(
        update={
            "codes": CodesSpec(dtype="float32", shape=(8,)),
            "codebook": None,
            "parity": None,
            "measures": (),
            "git_revision": None,
        }
    )
    card = model_card(continuous)
    assert "Turns 28x28x1 images into vectors of 8 numbers. Its kind is `vqvae`." in card
    assert "ONNX Runtime against torch" not in card
    assert "sources at" not in card
