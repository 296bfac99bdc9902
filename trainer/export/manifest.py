"""The manifest of a bundle: what was exported, from which config and commit, and how good it is."""

import os
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.contract.manifest import Codebook, CodesSpec, Manifest, Measures, Parity, Role, content_version
from trainer.config import ImportConfig, RunConfig
from trainer.data.loading import Dataset
from trainer.evaluation.exported_model import ExportedModel, file_entries
from trainer.export.onnx_export import CODEBOOK_FILE, CODEBOOK_TENSOR
from trainer.models.base import Exportable

# Folders of the trainer's machine mean nothing to the model's users.
PLACES = {"out", "export_to", "init_from"}

PACKAGE = Path(__file__).parents[1]
# Both packages decide what is exported.
SOURCES = (".", "../service")
GIT_SECONDS = 10.0


def manifest_of(
    model: Exportable,
    codes: CodesSpec,
    exported: ExportedModel,
    config: RunConfig | ImportConfig,
    dataset: Dataset,
    folder: Path,
    measures: Sequence[Measures],
    parity: Parity,
) -> Manifest:
    """The manifest of the files in ``folder``, without the run that made them."""
    codebook, files = model.codebook(), file_entries(folder)
    codebook_spec = None
    if codebook is not None:
        spec = {"file": CODEBOOK_FILE, "tensor": CODEBOOK_TENSOR, "shape": tuple(codebook.shape)}
        codebook_spec = Codebook.model_validate(spec)
    conditional = any(operation.takes(Role.label) for operation in exported.operations.values())
    return Manifest(
        name=config.name,
        kind=config.kind,
        version=content_version(files),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_revision=git_revision(),
        seed=config.seed,
        config=public_config(config) | {"data": dataset.name},
        image=model.image_spec(),
        codes=codes,
        labels=dataset.label_names if conditional else None,
        operations=dict(exported.operations),
        codebook=codebook_spec,
        measures=tuple(measures),
        parity=parity,
        files=files,
    )


def public_config(config: RunConfig | ImportConfig) -> dict[str, Any]:
    """The config without the folders of the trainer's machine, which mean nothing to the model's users."""
    values = config.model_dump(mode="json", exclude=PLACES)
    return {
        name: Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value
        for name, value in values.items()
    }


def git_revision(package: Path = PACKAGE) -> str | None:
    """The commit of a package's own sources, with ``-dirty`` after it if they have changed since.

    None if it is not known: the package is no checkout or lies in another repository, or git is missing,
    fails or takes too long.
    """
    try:
        # A repository around installed packages does not track them.
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "--verify", "HEAD")
        changed = _git(package, "status", "--porcelain", "--", *SOURCES)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changed else commit


def _git(folder: Path, *arguments: str) -> str:
    # Within a hook, say, such variables name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    run = subprocess.run(  # noqa: S603
        ["git", "--no-optional-locks", "-C", str(folder), *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=GIT_SECONDS,
    )
    return run.stdout.strip()
