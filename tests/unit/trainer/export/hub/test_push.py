import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from service.contract.manifest import FILE_NAME, Manifest
from service.models.bundle import read_bundle
from service.models.hub import local_folder
from tests.fixtures import hub_stand_in, toy_models
from tests.fixtures.hub_stand_in import KEY, Hub
from trainer.errors import ExportError
from trainer.export.hub.push import push, with_metadata

# The hub's client uploads in a way that its HTTP library calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPOSITORY = "ada/engine"


@pytest.fixture(scope="module")
def stand_in() -> Iterator[Hub]:
    with hub_stand_in.running() as hub:
        yield hub


@pytest.fixture
def hub(stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The stand-in without repositories, and a key for it."""
    stand_in.repositories.clear()
    stand_in.objects.clear()
    stand_in.requests.clear()
    hub_stand_in.use(monkeypatch, stand_in.url, tmp_path / "cache", KEY)
    return stand_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return toy_models.write_levels(tmp_path)


def test_what_was_pushed_is_what_is_served(hub: Hub, folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    pushed = push(folder, REPOSITORY, license_id="mit", private=True)
    assert pushed.source == f"hf://{REPOSITORY}@{hub.repositories[REPOSITORY].revisions['main']}"
    assert hub.repositories[REPOSITORY].private
    bundle = read_bundle(local_folder(pushed.source))
    assert bundle.manifest == pushed.manifest
    assert bundle.manifest.version == Manifest.model_validate_json(before[FILE_NAME]).version
    _, metadata, card = (bundle.path / "README.md").read_text().split("---\n")
    assert yaml.safe_load(metadata) == {
        "license": "mit",
        "library_name": "tessera-codes",
        "tags": ["tessera", "image-tokenizer", "onnx", "vqvae", "discrete-codes"],
    }
    assert card == "\n# levels\n"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    # Large files go to the hub's storage, and not through the commit.
    assert sum(request.startswith("PUT /objects/") for request in hub.requests) == 3


@pytest.mark.slow
def test_a_second_push_replaces_the_first(hub: Hub, folder: Path) -> None:
    first = push(folder, REPOSITORY, license_id="mit", private=False)
    second = push(folder, REPOSITORY, license_id="apache-2.0", private=False)
    assert first.commit != second.commit
    assert read_bundle(local_folder(f"hf://{REPOSITORY}")).manifest == second.manifest


def test_a_card_that_has_metadata_is_kept(folder: Path) -> None:
    manifest = read_bundle(folder).manifest
    card = "---\nlicense: mit\n---\n# levels\n"
    assert with_metadata(card, manifest, "apache-2.0") == card.encode()


@pytest.mark.parametrize("name", ["decoder.onnx", "preview.png"])
def test_a_folder_that_does_not_verify_is_not_pushed(hub: Hub, folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"another")
    with pytest.raises(ExportError, match=f"nothing is pushed: '{name}' is not the file of its manifest"):
        push(folder, REPOSITORY, license_id="mit", private=False)
    (folder / name).unlink()
    with pytest.raises(ExportError, match=f"'{name}' cannot be read: No such file"):
        push(folder, REPOSITORY, license_id="mit", private=False)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("repository", "key", "reason"),
    [
        ("ada/engine", "hf_wrong", r"refuses it \(401\): set HF_TOKEN to a key that may write to ada/engine"),
        ("charles/engine", KEY, r"refuses it \(403\): set HF_TOKEN"),
        ("ada/engine/x", KEY, "'ada/engine/x' is no repository; it is OWNER/NAME"),
    ],
)
def test_what_the_hub_refuses(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, repository: str, key: str, reason: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", key)
    with pytest.raises(ExportError, match=reason) as caught:
        push(folder, repository, license_id="mit", private=False)
    assert "\n" not in str(caught.value)


def test_no_network(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_stand_in.call(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ExportError, match=r"http://127.0.0.1:9 \(HF_ENDPOINT\) cannot be reached"):
        push(folder, REPOSITORY, license_id="mit", private=False)


def test_without_the_extra_it_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ExportError, match=r"push needs packages .* install the extra 'hub'"):
        push(folder, REPOSITORY, license_id="mit", private=False)
