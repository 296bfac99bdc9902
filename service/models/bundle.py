"""A model bundle: one exported folder, read and verified against its manifest.

    models/vqvae-mnist/     named after its model, so that no two bundles share a name
      manifest.json         the size and sha256 of every other file
      ...

A snapshot in the cache of the Hugging Face hub is a bundle too. It is named after its commit, and its files
are links to those that the cache keeps beside the snapshots:

    models--owner--name/
      blobs/HASH
      snapshots/COMMIT/     manifest.json -> ../../blobs/HASH

A bundle that fails verification is refused with the reason. No reason names a path outside the folder.
"""

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import ValidationError

from service.contract.manifest import FILE_NAME, SCHEMA_VERSION, File, Manifest, content_version
from service.errors import ModelRefused, quoted

PREVIEW = "preview.png"
# A commit, as the name of a snapshot in the cache of the hub.
_SNAPSHOT = re.compile(r"[0-9a-f]{40}")

Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and modification time of every file; equal as long as the folder is unchanged."""


@dataclass(frozen=True)
class Bundle:
    """An exported folder whose files match its manifest."""

    path: Path
    manifest: Manifest
    fingerprint: Fingerprint
    codebook: bytes | None
    """The safetensors file of the codebook."""
    vectors: NDArray[np.float32] | None
    """The code vectors: float32 ``(codebook_size, codebook_dim)``."""
    preview: bytes | None
    """A PNG of originals, reconstructions and samples."""


def read_bundle(path: Path) -> Bundle:
    """Read and verify an exported folder. Raises ModelRefused with the reason."""
    manifest = read_manifest(path)
    # Before the files, so that the check after loading notices every change in between.
    fingerprint = read_fingerprint(path, manifest)
    for name, file in manifest.files.items():
        _verify(path, name, file)
    if (version := content_version(manifest.files)) != manifest.version:
        raise ModelRefused(f"the manifest says version {manifest.version}, its files give {version}")
    codebook = vectors = preview = None
    if manifest.codebook is not None:
        codebook = _read(path, manifest.codebook.file)
        vectors = _vectors(codebook, manifest)
    if PREVIEW in manifest.files:
        preview = _read(path, PREVIEW)
    return Bundle(path, manifest, fingerprint, codebook, vectors, preview)


def read_tensors(bundle: Bundle) -> dict[str, bytes]:
    """The content of the files of tensors that the graphs of a bundle share, by file. Raises ModelRefused."""
    names = [name for name in bundle.manifest.files if name.endswith(".safetensors")]
    return {name: _read(bundle.path, name) for name in names}


def read_manifest(path: Path) -> Manifest:
    """The manifest of a folder, validated on its own. Raises ModelRefused."""
    try:
        document = orjson.loads(_read(path, FILE_NAME))
    except orjson.JSONDecodeError as error:
        raise ModelRefused(f"{FILE_NAME} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ModelRefused(f"{FILE_NAME} is not a JSON object")
    # First, because another schema version may differ in everything else.
    if (schema := document.get("schema_version")) != SCHEMA_VERSION:
        detail = f"{FILE_NAME} has schema version {quoted(schema)}, this service reads {SCHEMA_VERSION}"
        raise ModelRefused(detail)
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        complaints = [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ")
            for item in error.errors(include_url=False)
        ]
        raise ModelRefused(f"{FILE_NAME}: {'; '.join(complaints)}") from error
    if manifest.name != path.name and _blobs(path) is None:
        detail = f"the folder is named {path.name!r} and its model {manifest.name!r}; the names must be equal"
        raise ModelRefused(detail)
    return manifest


def read_fingerprint(path: Path, manifest: Manifest) -> Fingerprint:
    """The fingerprint of a folder. Raises ModelRefused if a file is missing."""
    prints = []
    for name in (FILE_NAME, *sorted(manifest.files)):
        status = _status(path, name)
        prints.append((name, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(prints)


def _verify(path: Path, name: str, file: File) -> None:
    if not _is_inside(path, name):
        raise ModelRefused(f"{name!r} is outside the model's folder")
    size = _status(path, name).st_size
    if size != file.size:
        raise ModelRefused(f"{name!r} has {size} bytes, the manifest says {file.size}")
    with _readable(name), (path / name).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != file.sha256:
        raise ModelRefused(f"{name!r} has the sha256 {digest}, the manifest says {file.sha256}")


def _is_inside(path: Path, name: str) -> bool:
    """Whether a file lies in the folder, or is the link of a snapshot to a file that the cache keeps."""
    file = path / name
    if file.resolve().is_relative_to(path.resolve()):
        return True
    blobs = _blobs(path)
    # The cache may share a blob between repositories by a link of its own, so only the first link counts.
    return blobs is not None and file.is_symlink() and _target(file).parent == blobs


def _blobs(path: Path) -> Path | None:
    """Where the cache of the hub keeps the files of a snapshot; None for any other folder."""
    whole = path.resolve()
    repository = whole.parent.parent
    is_snapshot = whole.parent.name == "snapshots" and repository.name.startswith("models--")
    return repository / "blobs" if is_snapshot and _SNAPSHOT.fullmatch(whole.name) else None


def _target(link: Path) -> Path:
    """Where a link leads, without following it further."""
    return Path(os.path.normpath(link.parent.resolve() / link.readlink()))


def _status(path: Path, name: str) -> os.stat_result:
    with _readable(name):
        status = (path / name).stat()
    if not stat.S_ISREG(status.st_mode):
        raise ModelRefused(f"{name!r} is not a regular file")
    return status


def _read(path: Path, name: str) -> bytes:
    _status(path, name)  # the read of a pipe would wait for a writer
    with _readable(name):
        return (path / name).read_bytes()


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turn an error while reading a file into ModelRefused."""
    try:
        yield
    except FileNotFoundError:
        raise ModelRefused(f"the bundle is incomplete: there is no {name!r}") from None
    except OSError as error:
        raise ModelRefused(f"{name!r} cannot be read: {error.strerror}") from error


def _vectors(data: bytes, manifest: Manifest) -> NDArray[np.float32]:
    spec = manifest.codebook
    assert spec is not None  # noqa: S101 - for the type checker
    try:
        tensors = safetensors.numpy.load(data)
    except Exception as error:  # safetensors has its own errors, and KeyError for dtypes that numpy lacks
        raise ModelRefused(f"{spec.file!r} is not a readable safetensors file") from error
    if (vectors := tensors.get(spec.tensor)) is None:
        raise ModelRefused(f"{spec.file!r} has the tensors {sorted(tensors)}, not {spec.tensor!r}")
    if vectors.shape != spec.shape or vectors.dtype != np.float32:
        raise ModelRefused(
            f"{spec.file!r}: {spec.tensor!r} is {vectors.dtype} {list(vectors.shape)}, "
            f"the manifest says float32 {list(spec.shape)}"
        )
    return vectors
