"""The folder of a model of the hub: its files are downloaded into the hub's own cache.

Only the files of the manifest are downloaded, all of the commit that the manifest is of. What the cache has
is not downloaded again, and serves a machine without a network. Nothing of a repository is run.

The client is configured by its own environment variables: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``.
"""

from pathlib import Path

from service.contract.manifest import FILE_NAME
from service.errors import ModelRefused, ModelsUnreadable, StartupError
from service.models.bundle import read_manifest
from service.models.hub.reference import Reference, is_reference

_NO_ACCESS = (401, 403)


class DownloadFailed(ModelsUnreadable, title="A model cannot be downloaded"):
    """A model of the hub that is not there, that this process may not read, or that cannot be reached."""


def local_folder(source: str) -> Path:
    """The folder of a source: of ``hf://owner/name[@revision]`` the snapshot in the cache, else the path.

    The files of a snapshot are verified where they are read, as those of every folder
    (``service.models.bundle.read_bundle``). Raises DownloadFailed, StartupError without the extra ``hub``,
    and ModelRefused if the repository is no model or lacks a file.
    """
    if not is_reference(source):
        return Path(source)
    try:
        reference = Reference.parse(source)
    except ValueError as error:
        raise DownloadFailed(str(error)) from None
    folder = _downloaded(reference, FILE_NAME, reference.revision).parent
    for name in read_manifest(folder).files:
        # A snapshot is named after its commit. With a commit, a file in the cache needs no request.
        _downloaded(reference, name, folder.name)
    return folder


def _downloaded(reference: Reference, name: str, revision: str | None) -> Path:
    """The path of a file in a snapshot. Raises as ``local_folder``."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError
    except ImportError as error:
        raise StartupError(
            f"{reference} needs packages that are not installed ({error.name}): "
            "install the extra 'hub' (in a checkout: pip install '.[hub]')"
        ) from error
    try:
        return Path(hf_hub_download(reference.repository, name, revision=revision))
    except RemoteEntryNotFoundError as error:
        detail = f"there is no {name!r} in {reference}"
        if name == FILE_NAME:
            detail += ", so it is no model of this service; `python -m trainer push` makes such a repository"
        raise ModelRefused(detail) from error
    except (OSError, HFValidationError, RuntimeError) as error:
        raise DownloadFailed(f"{reference}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Why a file cannot be downloaded, on one line."""
    from huggingface_hub import errors
    from huggingface_hub.constants import ENDPOINT

    if isinstance(error, errors.LocalEntryNotFoundError):
        # The cache was the second try; the cause is why the first failed.
        cause = error.__cause__
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return "it is not in the cache, and HF_HUB_OFFLINE is set"
        if not isinstance(cause, errors.HfHubHTTPError):
            return f"{ENDPOINT} (HF_ENDPOINT) cannot be reached, and the model is not in the cache"
        error = cause
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if isinstance(error, errors.GatedRepoError):
        return "its owner must give access to it: ask for it on its page, and set HF_TOKEN"
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.RepositoryNotFoundError) or status in _NO_ACCESS:
        return f"it does not exist or is private ({status}); check its name, or set HF_TOKEN to a key for it"
    if status is not None:
        return f"{ENDPOINT} answers {status}"
    return str(error).partition("\n")[0]
