"""Pushing a published model to the Hugging Face hub: one repository for one model.

The repository holds the files of the manifest, and the manifest. The model card is its page; the hub wants
metadata at the top of it, as YAML, so a card without any gets some, and the manifest that is pushed has the
card's new hash. The folder itself is not changed.

The client is configured by its own environment variables: ``HF_TOKEN``, ``HF_ENDPOINT``.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from service.contract.manifest import FILE_NAME, File, Manifest, content_version
from trainer.errors import ExportError, needs
from trainer.evaluation.exported_model import open_exported
from trainer.export.model_card import CARD

LIBRARY = "tessera-codes"
_FENCE = "---\n"
# The hub answers 404 for a private repository that the key may not read.
_NO_ACCESS = (401, 403, 404)


@dataclass(frozen=True)
class Pushed:
    """What was pushed: the model, its repository ``owner/name``, and the commit there."""

    manifest: Manifest
    repository: str
    commit: str

    @property
    def source(self) -> str:
        """The source for ``python -m service --models``."""
        return f"hf://{self.repository}@{self.commit}"


def push(folder: Path, repository: str, *, license_id: str, private: bool) -> Pushed:
    """Push a published model into a repository, which is made if there is none.

    ``license_id`` is an identifier of the hub, such as ``mit``; ``private`` is for a repository that is made.
    Raises ExportError, and pushes nothing, if the folder does not verify, the extra ``hub`` is missing or
    the hub refuses.
    """
    manifest = verified(folder)
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise ExportError(needs("push", "hub", error.name)) from error
    card = with_metadata(_card(folder, manifest), manifest, license_id)
    entry = File(sha256=hashlib.sha256(card).hexdigest(), size=len(card))
    pushed = manifest.model_copy(update={"files": {**manifest.files, CARD: entry}})
    text = pushed.model_dump_json(indent=2) + "\n"
    contents: dict[str, Path | bytes] = {name: folder / name for name in manifest.files}
    contents |= {CARD: card, FILE_NAME: text.encode()}
    with _clear_errors(repository):
        api = HfApi(library_name=LIBRARY)
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(name, content) for name, content in sorted(contents.items())],
            commit_message=f"Push {manifest.name}, version {manifest.version}",
        )
    return Pushed(pushed, repository, commit.oid)


def verified(folder: Path) -> Manifest:
    """The manifest of a folder whose files are as it says. Raises ExportError."""
    _, manifest = open_exported(folder)
    for name, entry in manifest.files.items():
        try:
            with (folder / name).open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise _unverified(folder, f"{name!r} cannot be read: {error.strerror}") from error
        if digest != entry.sha256:
            raise _unverified(folder, f"{name!r} is not the file of its manifest")
    if (version := content_version(manifest.files)) != manifest.version:
        raise _unverified(folder, f"the manifest says version {manifest.version}, its files give {version}")
    return manifest


def with_metadata(card: str, manifest: Manifest, license_id: str) -> bytes:
    """A model card with metadata for the hub: as it is if it has some, else with license and tags."""
    if card.startswith(_FENCE):
        return card.encode()
    kind = "discrete" if manifest.codes.codebook_size is not None else "continuous"
    metadata = {
        "license": license_id,
        "library_name": LIBRARY,
        "tags": ["tessera", "image-tokenizer", "onnx", manifest.kind, f"{kind}-codes"],
    }
    return f"{_FENCE}{yaml.safe_dump(metadata, sort_keys=False)}{_FENCE}\n{card}".encode()


def _card(folder: Path, manifest: Manifest) -> str:
    if CARD not in manifest.files:
        return f"# {manifest.name}\n"
    return (folder / CARD).read_text(encoding="utf-8")


def _unverified(folder: Path, why: str) -> ExportError:
    return ExportError(f"{folder} does not verify, so nothing is pushed: {why}; publish it again")


@contextmanager
def _clear_errors(repository: str) -> Iterator[None]:
    """Turn an error of the hub's client into ExportError."""
    import httpx2

    try:
        yield
    # RuntimeError if a large file cannot be uploaded, ValueError for a wrong name, metadata or response.
    except (OSError, httpx2.HTTPError, RuntimeError, ValueError) as error:
        raise ExportError(f"{_reason(error, repository)}; nothing is pushed") from error


def _reason(error: BaseException, repository: str) -> str:
    """Why the hub did not take a push, on one line."""
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HFValidationError):
        return f"{repository!r} is no repository; it is OWNER/NAME"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        if status in _NO_ACCESS:
            return f"{ENDPOINT} refuses it ({status}): set HF_TOKEN to a key that may write to {repository}"
        return f"{ENDPOINT} answers {status}: {error.server_message or 'it says no more'}"
    if isinstance(error, ValueError):
        return f"{ENDPOINT}: {' '.join(str(error).split())}"
    return f"{ENDPOINT} (HF_ENDPOINT) cannot be reached: {' '.join(str(error).split())}"
