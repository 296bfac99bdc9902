"""Imports that are refused, and a pickle that would run code."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from trainer.errors import TrainerError
from trainer.pretrained.importer import import_checkpoint


def refusal(path: Path, **options: Any) -> str:
    """The message of the error of an import, which publishes nothing."""
    target = path.parent / "exported"
    with pytest.raises(TrainerError) as caught:
        import_checkpoint(path, Console(file=io.StringIO()), export_to=target, **options)
    assert not target.exists() or not any(target.iterdir())
    message = str(caught.value)
    assert "\n" not in message
    return message


class Trap:
    """An object that would make a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)
