import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from service.contract.manifest import FILE_NAME
from service.errors import ModelRefused, ModelsUnreadable, StartupError
from service.models.bundle import read_bundle
from service.models.hub import local_folder
from service.models.hub.download import DownloadFailed
from service.models.registry import Registry, find_bundles
from tests.fixtures import hub_stand_in, toy_models
from tests.fixtures.hub_stand_in import Hub
from tests.unit.service.conftest import CPU

SOURCE = "hf://ada/engine"


@pytest.fixture(scope="module")
def stand_in() -> Iterator[Hub]:
    with hub_stand_in.running() as hub:
        yield hub


@pytest.fixture
def hub(stand_in: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The stand-in, with the model ``levels`` in ``ada/engine``, and an empty cache."""
    stand_in.repositories.clear()
    stand_in.requests.clear()
    hub_stand_in.use(monkeypatch, stand_in.url, tmp_path / "cache")
    stand_in.holds("ada/engine", toy_models.write_levels(tmp_path / "made"))
    return stand_in


def test_a_path_is_as_it_is() -> None:
    assert local_folder("exported/mine") == Path("exported/mine")


def test_a_model_is_served_from_the_cache_of_the_hub(hub: Hub) -> None:
    registry = Registry([SOURCE], CPU)
    assert registry.reload().loaded == ["levels"]
    assert registry.models["levels"].bundle.path.name == hub.repositories["ada/engine"].revisions["main"]
    assert any(path.is_symlink() for path in registry.models["levels"].bundle.path.iterdir())


@pytest.mark.slow
def test_a_reload_serves_the_new_commit_of_a_branch_and_keeps_that_of_a_tag(hub: Hub) -> None:
    repository = hub.repositories["ada/engine"]
    repository.revisions["v1"] = repository.revisions["main"]
    registry, pinned = Registry([SOURCE], CPU), Registry([f"{SOURCE}@v1"], CPU)
    registry.reload(), pinned.reload()
    assert registry.reload().kept == ["levels"]
    manifest = repository.commits[repository.revisions["main"]][FILE_NAME]
    newer = repository.add({FILE_NAME: manifest.replace(b"2026-01-01", b"2026-01-02")})
    assert registry.reload().loaded == ["levels"]
    assert registry.models["levels"].bundle.path.name == newer
    assert pinned.reload().kept == ["levels"]


@pytest.mark.slow
def test_only_the_files_of_the_manifest_are_downloaded(hub: Hub) -> None:
    hub.repositories["ada/engine"].add({"training/optimizer.bin": b"0" * 1000})
    folder = local_folder(SOURCE)
    assert {path.name for path in folder.iterdir()} == {FILE_NAME, *read_bundle(folder).manifest.files}
    assert not any("optimizer" in request for request in hub.requests)


def test_without_a_network_the_cache_is_used(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    before = local_folder(SOURCE)
    hub_stand_in.call(monkeypatch, "http://127.0.0.1:9")
    assert local_folder(SOURCE) == before
    assert read_bundle(before).manifest.name == "levels"


def test_a_commit_in_the_cache_needs_no_request(hub: Hub) -> None:
    before = local_folder(SOURCE)
    hub.requests.clear()
    assert local_folder(f"{SOURCE}@{before.name}") == before
    assert hub.requests == []


@pytest.mark.slow
def test_a_file_that_is_not_as_the_manifest_says_is_refused(hub: Hub) -> None:
    hub.repositories["ada/engine"].add({"preview.png": b"another"})
    outcome = Registry([SOURCE], CPU).reload()
    assert [each.name for each in outcome.refused] == ["levels"]
    assert "'preview.png' has 7 bytes" in outcome.refused[0].reason


@pytest.mark.parametrize(
    ("left_out", "reason"),
    [
        (FILE_NAME, "there is no 'manifest.json' in hf://ada/engine, so it is no model of this service"),
        ("preview.png", "there is no 'preview.png' in hf://ada/engine"),
    ],
)
def test_a_repository_without_a_file_is_refused(hub: Hub, left_out: str, reason: str) -> None:
    repository = hub.repositories["ada/engine"]
    del repository.commits[repository.revisions["main"]][left_out]
    with pytest.raises(ModelRefused, match=reason):
        local_folder(SOURCE)
    folders, refused = find_bundles([SOURCE])
    assert (folders, [each.name for each in refused]) == ({}, ["engine"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("hf://ada/engin", r"hf://ada/engin: it does not exist or is private \(401\); .* HF_TOKEN"),
        ("hf://ada/engine@v9", "hf://ada/engine@v9: the repository has no such revision"),
        ("hf://engine", "'hf://engine' is no model of the hub; it is hf://OWNER/NAME"),
    ],
)
def test_errors_are_one_line(hub: Hub, source: str, reason: str) -> None:
    with pytest.raises(DownloadFailed, match=reason) as caught:
        local_folder(source)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_private_repository_needs_a_key(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["ada/engine"].private = True
    with pytest.raises(DownloadFailed, match=r"is private \(401\)"):
        local_folder(SOURCE)
    monkeypatch.setenv("HF_TOKEN", hub_stand_in.KEY)
    assert read_bundle(local_folder(SOURCE)).manifest.name == "levels"


@pytest.mark.slow
def test_without_a_network_and_without_the_model_in_the_cache(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client tries five times, and waits in between.
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    hub_stand_in.call(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match=r"HF_ENDPOINT\) cannot be reached, and the model is not in"):
        local_folder(SOURCE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="not in the cache, and HF_HUB_OFFLINE is set"):
        local_folder(SOURCE)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StartupError, match=r"hf://ada/engine needs packages .* pip install '\.\[hub\]'"):
        local_folder(SOURCE)


@pytest.mark.slow
def test_two_models_of_one_name_are_an_error(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelsUnreadable, match="two of the sources have a model 'levels'"):
        find_bundles([tmp_path / "made", SOURCE])
