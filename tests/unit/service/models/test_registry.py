import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from service.contract.manifest import Role
from service.errors import ModelNotChosen, ModelNotLoaded, ModelsUnreadable, NotReady, UnknownModel
from service.models.model import ServedModel
from service.models.registry import Registry
from tests.fixtures import bundle_builder, toy_models
from tests.unit.service.conftest import CPU


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    toy_models.write_levels(tmp_path)
    toy_models.write_colours(tmp_path)
    registry = Registry([tmp_path], CPU)
    registry.reload()
    return registry


def first_pixel(model: ServedModel) -> int:
    codes = np.zeros((1, 7, 7), np.int32)
    return int(
        model.run(model.pipeline_of("decode"), {Role.codes: codes}, 1, {}).arrays[Role.images][0, 0, 0, 0]
    )


def test_models_are_found_by_name(registry: Registry) -> None:
    assert list(registry.models) == ["colours", "levels"]
    assert registry.choose("levels").manifest.name == "levels"
    with pytest.raises(UnknownModel, match="no model 'levles'; did you mean 'levels'") as caught:
        registry.choose("levles")
    assert caught.value.members["allowed"] == ["colours", "levels"]


def test_the_default_is_the_setting_or_the_only_model(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(ModelNotChosen, match="colours, levels"):
        registry.choose()
    chosen = Registry([tmp_path], CPU, default="levels")
    chosen.reload()
    assert chosen.choose().manifest.name == "levels"
    shutil.rmtree(tmp_path / "levels")
    registry.reload()
    assert registry.choose().manifest.name == "colours"


def test_a_missing_default_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy_models.write_levels(tmp_path)
    registry = Registry([tmp_path], CPU, default="lvels")
    registry.reload()
    assert "the default model 'lvels' is not loaded; did you mean 'levels'?" in caplog.text
    with pytest.raises(UnknownModel, match="'lvels'"):
        registry.choose()


def test_nothing_is_loaded(tmp_path: Path) -> None:
    registry = Registry([tmp_path], CPU)
    registry.reload()
    with pytest.raises(NotReady, match="no bundle in the models folder"):
        registry.choose("levels")
    (tmp_path / "levels").mkdir()
    registry.reload()
    with pytest.raises(NotReady, match="levels: the bundle is incomplete"):
        registry.choose()


def test_what_to_do_without_a_model_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    registry = Registry([tmp_path], CPU, default="levels")
    registry.reload()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"no model is served: there is no bundle in {tmp_path} (--models); train one" in caplog.text
    assert "reload" in caplog.text
    (tmp_path / "levels").mkdir()
    registry.reload()
    assert f"every bundle in {tmp_path} is refused" in caplog.text
    toy_models.write_colours(tmp_path)
    caplog.clear()
    registry.reload()
    assert "no model is served" not in caplog.text


def test_a_reload_is_logged_also_if_nothing_has_changed(
    tmp_path: Path, registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "service.models")
    registry.reload()
    assert caplog.messages == [f"nothing has changed in {tmp_path}"]
    caplog.clear()
    shutil.rmtree(tmp_path / "levels")
    registry.reload()
    assert caplog.messages == ["model levels is removed"]


def test_a_model_whose_bundle_was_refused_is_not_loaded(tmp_path: Path, registry: Registry) -> None:
    (toy_models.write_levels(tmp_path, name="half") / "decoder.onnx").write_bytes(b"")
    registry.reload()
    with pytest.raises(ModelNotLoaded, match=r"'half' .* refused: 'decoder.onnx' has 0 bytes") as caught:
        registry.choose("half")
    assert caught.value.status == 503
    assert caught.value.members == {"given": "half", "reason": registry.refused[0].reason}
    assert str(tmp_path) not in caught.value.detail
    default = Registry([tmp_path], CPU, default="half")
    default.reload()
    with pytest.raises(ModelNotLoaded):
        default.choose()
    # Refused too, but an earlier version of it is served.
    (tmp_path / "levels" / "decoder.onnx").write_bytes(b"")
    assert [each.name for each in registry.reload().refused] == ["half", "levels"]
    assert registry.choose("levels").manifest.name == "levels"


def test_a_missing_models_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelsUnreadable, match="No such file") as caught:
        Registry([tmp_path / "nowhere"], CPU).reload()
    assert str(tmp_path) not in str(caught.value)
    (tmp_path / "file").touch()
    with pytest.raises(ModelsUnreadable, match="Not a directory"):
        Registry([tmp_path / "file"], CPU).reload()


def test_reload_loads_keeps_and_removes(tmp_path: Path, registry: Registry) -> None:
    levels = registry.choose("levels")
    toy_models.write_oddity(tmp_path)
    shutil.rmtree(tmp_path / "colours")
    (tmp_path / "a file").touch()
    toy_models.write_levels(tmp_path, name="unfinished").rename(tmp_path / ".unfinished")
    outcome = registry.reload()
    assert (outcome.loaded, outcome.kept, outcome.removed) == (["oddity"], ["levels"], ["colours"])
    assert outcome.refused == []
    assert registry.choose("levels") is levels


def test_a_changed_model_is_replaced_and_the_old_one_still_runs(tmp_path: Path, registry: Registry) -> None:
    old = registry.choose("levels")
    shutil.rmtree(tmp_path / "levels")
    toy_models.write_levels(tmp_path, tint=9)
    assert registry.reload().loaded == ["levels"]
    new = registry.choose("levels")
    assert new.manifest.version != old.manifest.version
    assert (first_pixel(old), first_pixel(new)) == (0, 9)


def test_a_bad_change_is_refused_and_the_old_model_stays(tmp_path: Path, registry: Registry) -> None:
    old = registry.choose("levels")
    (tmp_path / "levels" / "decoder.onnx").write_bytes(b"")
    (tmp_path / "colours" / "manifest.json").unlink()
    outcome = registry.reload()
    assert outcome.kept == ["colours", "levels"]
    assert [refusal.name for refusal in outcome.refused] == ["colours", "levels"]
    assert "bundle is incomplete" in outcome.refused[0].reason
    assert "'decoder.onnx' has 0 bytes" in outcome.refused[1].reason
    assert registry.choose("levels") is old
    assert first_pixel(old) == 0
    assert registry.refused == tuple(outcome.refused)


def test_one_invalid_bundle_stops_no_other(tmp_path: Path) -> None:
    toy_models.write_levels(tmp_path)
    bundle_builder.edit_manifest(toy_models.write_colours(tmp_path), schema_version=2)
    registry = Registry([tmp_path], CPU)
    outcome = registry.reload()
    assert outcome.loaded == ["levels"]
    assert [(refusal.name, refusal.reason) for refusal in outcome.refused] == [
        ("colours", "manifest.json has schema version 2, this service reads 1")
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names in Unicode")
def test_a_folder_whose_name_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "\udcff").mkdir()
    (refusal,) = Registry([tmp_path], CPU).reload().refused
    assert refusal.name == r"\udcff"


@pytest.mark.slow
def test_requests_run_while_models_are_replaced(tmp_path: Path, registry: Registry) -> None:
    done, seen = threading.Event(), set()

    def run() -> None:
        while not done.is_set():
            seen.add(first_pixel(registry.choose("levels")))

    clients = [threading.Thread(target=run) for _ in range(2)]
    for client in clients:
        client.start()
    try:
        for tint in (1, 2, 3):
            staged = toy_models.write_levels(tmp_path / ".staged", tint=tint)
            (tmp_path / "levels").rename(tmp_path / f".old{tint}")
            staged.rename(tmp_path / "levels")
            reloads = [threading.Thread(target=registry.reload) for _ in range(2)]
            for reload in reloads:
                reload.start()
            for reload in reloads:
                reload.join()
            assert first_pixel(registry.choose("levels")) == tint
    finally:
        done.set()
        for client in clients:
            client.join()
    assert seen <= {0, 1, 2, 3}
    assert len(seen) > 1


def test_prepared_models_are_served_after_commit(tmp_path: Path, registry: Registry) -> None:
    toy_models.write_oddity(tmp_path)
    (tmp_path / "colours" / "manifest.json").unlink()
    outcome = registry.prepare()
    assert (outcome.loaded, list(outcome.good)) == (["oddity"], ["levels", "oddity"])
    assert outcome.good["levels"] == registry.choose("levels").manifest.version
    assert list(registry.models) == ["colours", "levels"]
    assert not registry.refused
    registry.abandon()
    registry.commit()
    assert list(registry.models) == ["colours", "levels"]
    registry.prepare()
    registry.commit()
    assert list(registry.models) == ["colours", "levels", "oddity"]
    assert [refusal.name for refusal in registry.refused] == ["colours"]
