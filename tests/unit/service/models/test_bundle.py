import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pytest
from safetensors.numpy import save

from service.errors import ModelRefused
from service.models.bundle import read_bundle, read_fingerprint
from tests.fixtures import bundle_builder, toy_models


@pytest.fixture
def levels_folder(tmp_path: Path) -> Path:
    return toy_models.write_levels(tmp_path)


def test_a_valid_bundle(levels_folder: Path) -> None:
    bundle = read_bundle(levels_folder)
    assert bundle.manifest.name == "levels"
    assert bundle.vectors is not None
    np.testing.assert_array_equal(bundle.vectors, toy_models.VECTORS)
    assert bundle.codebook == (levels_folder / bundle_builder.CODEBOOK_FILE).read_bytes()
    assert bundle.preview == (levels_folder / "preview.png").read_bytes()


def flip_a_byte(path: Path) -> None:
    data = bytearray((path / "encoder.onnx").read_bytes())
    data[-1] ^= 1
    (path / "encoder.onnx").write_bytes(data)


def cut_a_file(path: Path) -> None:
    (path / "decoder.onnx").write_bytes((path / "decoder.onnx").read_bytes()[:-1])


def link_out(path: Path) -> None:
    outside = path.parent / "outside.onnx"
    (path / "encoder.onnx").rename(outside)
    (path / "encoder.onnx").symlink_to(outside)


def make_a_pipe_of_the_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()
    os.mkfifo(path / "manifest.json")


def make_a_folder_of_it(path: Path) -> None:
    (path / "encoder.onnx").unlink()
    (path / "encoder.onnx").mkdir()


def point_out(path: Path) -> None:
    operations = orjson.loads((path / "manifest.json").read_bytes())["operations"]
    operations["encode"]["graph"] = "../levels/encoder.onnx"
    bundle_builder.edit_manifest(path, operations=operations)


def rename_model(path: Path) -> None:
    bundle_builder.edit_manifest(path, name="other")


def claim_version(path: Path) -> None:
    bundle_builder.edit_manifest(path, version="0" * 12)


def rewrite_codebook(path: Path, data: bytes) -> None:
    (path / bundle_builder.CODEBOOK_FILE).write_bytes(data)
    document = orjson.loads((path / "manifest.json").read_bytes())
    kept = {name: document[name] for name in ("kind", "image", "codes", "codebook", "operations")}
    bundle_builder.write_manifest(path, **kept)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, r"'encoder.onnx' has the sha256 \w{64}, the manifest says"),
        (cut_a_file, r"'decoder.onnx' has \d+ bytes, the manifest says \d+"),
        (
            lambda path: (path / "manifest.json").unlink(),
            "incomplete: there is no 'manifest.json'",
        ),
        (
            lambda path: (path / "decoder.onnx").unlink(),
            "incomplete: there is no 'decoder.onnx'",
        ),
        (lambda path: (path / "manifest.json").write_text('{"schema_'), "manifest.json is not JSON"),
        (lambda path: (path / "manifest.json").write_text("[]"), "is not a JSON object"),
        (
            lambda path: bundle_builder.edit_manifest(path, schema_version=2, all_else="different"),
            "schema version 2, this service reads 1",
        ),
        (lambda path: (path / "manifest.json").write_text("{}"), "schema version None"),
        (lambda path: bundle_builder.edit_manifest(path, seed="seven"), "manifest.json: seed: "),
        (point_out, "operations.encode.graph: .*outside the model's folder"),
        (link_out, "'encoder.onnx' is outside the model's folder"),
        (make_a_folder_of_it, "'encoder.onnx' is not a regular file"),
        (make_a_pipe_of_the_manifest, "'manifest.json' is not a regular file"),
        (rename_model, "the folder is named 'levels' and its model 'other'"),
        (claim_version, "the manifest says version 000000000000, its files give"),
        (lambda path: rewrite_codebook(path, b"nothing"), "is not a readable safetensors file"),
        (
            lambda path: rewrite_codebook(path, save({"a": toy_models.VECTORS})),
            r"the tensors \['a'\], not 'vectors'",
        ),
        (
            lambda path: rewrite_codebook(path, save({"vectors": toy_models.VECTORS[1:]})),
            r"'vectors' is float32 \[15, 2\], the manifest says float32 \[16, 2\]",
        ),
        (
            lambda path: rewrite_codebook(path, save({"vectors": toy_models.VECTORS.astype(np.float64)})),
            r"'vectors' is float64",
        ),
    ],
)
def test_an_invalid_bundle_is_refused(
    levels_folder: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(levels_folder)
    with pytest.raises(ModelRefused, match=reason) as caught:
        read_bundle(levels_folder)
    assert str(levels_folder.parent) not in str(caught.value)


def test_a_file_without_read_permission(levels_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Patched, because root may read everything.
    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(ModelRefused, match="cannot be read: Permission denied"):
        read_bundle(levels_folder)


def test_a_link_inside_the_folder_is_allowed(levels_folder: Path) -> None:
    (levels_folder / "encoder.onnx").rename(levels_folder / "real.onnx")
    (levels_folder / "encoder.onnx").symlink_to("real.onnx")
    assert read_bundle(levels_folder).manifest.name == "levels"


def test_the_fingerprint_changes_with_a_file(levels_folder: Path) -> None:
    manifest = read_bundle(levels_folder).manifest
    before = read_fingerprint(levels_folder, manifest)
    assert read_fingerprint(levels_folder, manifest) == before
    flip_a_byte(levels_folder)
    os.utime(levels_folder / "encoder.onnx", ns=(1, 1))
    assert read_fingerprint(levels_folder, manifest) != before


def snapshot(levels_folder: Path) -> Path:
    """The folder as the cache of the hub keeps it: named after a commit, of links to its blobs."""
    repository = levels_folder.parent / "models--ada--engine"
    folder = repository / "snapshots" / ("0123456789" * 4)
    folder.mkdir(parents=True)
    levels_folder.rename(repository / "blobs")
    for path in (repository / "blobs").iterdir():
        (folder / path.name).symlink_to(Path("../../blobs") / path.name)
    return folder


def test_a_snapshot_of_the_hub_is_a_bundle(levels_folder: Path) -> None:
    folder = snapshot(levels_folder)
    assert read_bundle(folder).manifest.name == "levels"
    # The cache shares a blob between repositories by a link of its own.
    blob = (folder / "encoder.onnx").resolve()
    blob.rename(levels_folder.parent / "shared")
    blob.symlink_to(levels_folder.parent / "shared")
    assert read_bundle(folder).manifest.name == "levels"


def test_a_link_of_a_snapshot_to_anywhere_else_is_refused(levels_folder: Path) -> None:
    folder = snapshot(levels_folder)
    blob = (folder / "encoder.onnx").resolve()
    (folder / "encoder.onnx").unlink()
    (folder / "encoder.onnx").symlink_to(blob.rename(folder.parents[1] / "encoder.onnx"))
    with pytest.raises(ModelRefused, match=r"'encoder.onnx' is outside the model's folder"):
        read_bundle(folder)


def test_only_a_snapshot_may_link_to_blobs(levels_folder: Path) -> None:
    folder = snapshot(levels_folder)
    moved = folder.rename(folder.with_name("levels"))
    with pytest.raises(ModelRefused, match=r"is outside the model's folder"):
        read_bundle(moved)
