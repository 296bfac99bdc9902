"""The Gaussian family, whole: both stages trained, published and measured, then served by a process."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import torch
from PIL import Image

from service.contract import noise
from service.contract.manifest import FILE_NAME, ImageSpec, Manifest
from tests.fixtures import tiny_models
from tests.fixtures.consistency import assert_consistent
from tests.fixtures.processes import ROOT, asking
from tests.fixtures.trained_models import NCP, digits, folder_of
from tests.fixtures.trainer_command import finished
from trainer.models.base import build
from trainer.models.gaussian.noise_contrastive import STEP_SIZE, ClassifierStage
from trainer.models.samplers.langevin import Langevin
from trainer.training import checkpoint
from trainer.training.run_folder import RunFolder

SEVEN = ROOT / "tests" / "fixtures" / "seven.png"
DIM = tiny_models.VAE_VALUES["latent_dim"]
PLOTS = ("loss", "lowest_loss")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds runs/tiny and exported/tiny, of both stages; a copy, as an evaluation is written into it."""
    return shutil.copytree(folder_of(NCP), tmp_path_factory.mktemp("e2e") / "ncp")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx2.Client]:
    with asking(folder / "exported") as client:
        yield client


@pytest.fixture(scope="module")
def stage(folder: Path) -> ClassifierStage:
    """The second stage in torch, from its checkpoint."""
    run = RunFolder.open(folder / "runs" / "tiny")
    stage = build(run.config, ImageSpec(**run.facts["image"]), 1.0).second_stage(10)
    assert isinstance(stage, ClassifierStage)
    checkpoint.load_weights(run.stage(stage.name).latest_checkpoint(), stage, averaged=True)
    return stage.eval()


def sample(client: httpx2.Client, query: str, **arguments: Any) -> Any:
    answer = client.post(f"/sample?{query}", headers={"Accept": "application/json"}, **arguments)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_both_stages_leave_their_plots_and_pictures(folder: Path) -> None:
    second = folder / "runs" / "tiny" / "classifier"
    assert all((second / "plots" / f"{name}.png").is_file() for name in PLOTS)
    assert len(list((second / "samples").iterdir())) == 2
    assert (folder / "exported" / "tiny" / "samples.png").is_file()


def test_images_are_those_of_their_codes_and_seeds(client: httpx2.Client) -> None:
    assert_consistent(client, "tiny")


def test_a_chain_by_http_is_the_chain_in_torch(client: httpx2.Client, stage: ClassifierStage) -> None:
    served = sample(client, "method=langevin&steps=50&n=8&seed=3")
    given = [
        torch.from_numpy(noise.normal(3, range(8), noise.stream("sample/langevin", name), shape))
        for name, shape in (("start", (DIM,)), ("noise", (50, DIM)))
    ]
    with torch.no_grad():
        codes, _, energies = Langevin(stage.network)(*given, torch.tensor(STEP_SIZE), torch.tensor(0))
    # float32 sums in another order, over 50 steps.
    np.testing.assert_allclose(served["codes"], codes, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(served["figures"]["energy"], energies, rtol=1e-4, atol=1e-4)


def test_a_chain_can_be_watched(client: httpx2.Client) -> None:
    watched = sample(client, "method=mala&steps=40&every=10&n=3&seed=1")
    assert np.shape(watched["states"]) == (3, 4, DIM)
    assert [chain[-1] for chain in watched["state_images"]] == watched["images"]
    assert all(0 <= rate <= 1 for rate in watched["figures"]["acceptance_rate"])
    picture = client.post("/sample?method=mala&steps=40&every=10&n=3&seed=1").content
    assert Image.open(io.BytesIO(picture)).size == (4 * 28 + 3 * 2, 3 * 28 + 2 * 2)


def test_one_of_many_draws(client: httpx2.Client) -> None:
    effective = sample(client, "method=sir&proposals=64&n=5&seed=1")["figures"]["effective_proposals"]
    assert all(1 <= each <= 64.001 for each in effective)


def test_between_two_images(client: httpx2.Client) -> None:
    seven = SEVEN.read_bytes()
    black = io.BytesIO()
    Image.new("L", (28, 28)).save(black, format="PNG")
    files = [
        ("image", (f"{index}.png", data, "image/png")) for index, data in enumerate((seven, black.getvalue()))
    ]
    points = sample(client, "method=interpolate&n=5&spherical=0", files=files)
    ends = [
        client.post("/encode", content=data, headers={"Content-Type": "image/png"}).json()["codes"][0]
        for data in (seven, black.getvalue())
    ]
    np.testing.assert_allclose(points["codes"], np.linspace(ends[0], ends[1], 5), atol=1e-5)


def test_codes_are_the_mean_and_with_a_seed_a_draw(client: httpx2.Client) -> None:
    def encoded(query: str) -> Any:
        headers = {"Content-Type": "image/png"}
        return client.post(f"/encode{query}", content=SEVEN.read_bytes(), headers=headers).json()["codes"]

    assert encoded("") == encoded("")
    assert encoded("?seed=1") == encoded("?seed=1")
    assert len({str(encoded(query)) for query in ("", "?seed=1", "?seed=2")}) == 3


def test_scores_come_closer_with_more_samples(client: httpx2.Client) -> None:
    headers = {"Content-Type": "image/png"}
    answers = [
        client.post(f"/score?samples={samples}&seed=1", content=SEVEN.read_bytes(), headers=headers).json()
        for samples in (1, 256)
    ]
    one, many = (answer["figures"] for answer in answers)
    assert one["elbo"][0] == pytest.approx(one["reconstruction"][0] - one["kl"][0], rel=1e-5)
    assert one["kl"] == pytest.approx(many["kl"])
    # With many draws the bound is tighter than their mean.
    assert many["nll"][0] < -many["elbo"][0]


def test_the_model_is_measured_in_full(folder: Path) -> None:
    exported = folder / "exported" / "tiny"
    before = Manifest.model_validate_json((exported / FILE_NAME).read_text())
    effort = ("--samples=60", "--nll-samples=4", "--nll-images=20", f"--data={digits()}")
    measured = json.loads(finished("evaluate", exported, "--json", *effort))
    rows = {row["of"]: row["values"] for row in measured}
    methods = [f"sample/{method}" for method in ("prior", "langevin", "mala", "sir")]
    assert list(rows) == ["reconstructions", "likelihood", "real images", *methods, "training"]
    assert rows["likelihood"]["nll"] <= -rows["likelihood"]["elbo"]
    assert all(
        {"mnist_fd", "precision", "recall", "density", "coverage"} <= rows[name].keys() for name in methods
    )
    after = Manifest.model_validate_json((exported / FILE_NAME).read_text())
    assert after.version == before.version
    assert [row.of for row in after.measures] == list(rows)


def test_a_picture_beside_its_reconstruction(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "pair.png"
    assert "PSNR" in finished("reconstruct", folder / "runs" / "tiny", f"--image={SEVEN}", f"--out={out}")
    with Image.open(out) as picture:
        assert picture.size == (28, 58)
