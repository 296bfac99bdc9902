"""The datasets of torchvision, by name, downloaded once.

Their constructors differ: some take ``train=``, some ``split=`` with names of their own, some neither. What
a constructor takes is read from its signature, so that a new torchvision needs no change here.
"""

import ast
import importlib.util
import inspect
import operator
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from trainer.data.sources.pictures import Picture, Source, open_image, reason
from trainer.errors import DataError

TESTS = ("test", "val", "valid")
CACHE_VARIABLE = "TESSERA_DATA"


@dataclass(frozen=True)
class VisionPictures:
    """One split of a torchvision dataset; a target that is no single number is no label."""

    title: str
    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        return f"{self.title}[{index}]"

    def open(self, index: int) -> Picture:
        image, target = self.dataset[index]
        if not isinstance(image, Image.Image):
            raise TypeError(f"a {type(image).__name__}, no picture")
        return Picture(image, _label(target))


def find(name: str) -> str | None:
    """The proper spelling of a dataset's name, whatever the case, or None if there is no such dataset."""
    return next((proper for proper in names() if proper.lower() == name.lower()), None)


def names() -> list[str]:
    """The datasets that can be downloaded with no option but the folder."""
    datasets = _datasets()
    return sorted(name for name in datasets.__all__ if _is_simple(getattr(datasets, name)))


def listed() -> list[str]:
    """What torchvision's ``datasets`` has, by its source text: to import it takes as long as torch itself.

    All of its datasets, those too that ``names`` leaves out; empty if torchvision is not installed.
    """
    package = importlib.util.find_spec("torchvision")
    folders = (package.submodule_search_locations if package else None) or ()
    for file in (Path(folder, "datasets", "__init__.py") for folder in folders):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                return list(ast.literal_eval(node.value))
    return []


def read(name: str) -> Source:
    """A dataset by its proper name, downloaded into ``cache_folder()`` if it is not there yet.

    Without a test split of its own, a validation split is taken for it. Raises DataError if it cannot be
    downloaded or read.
    """
    make = getattr(_datasets(), name)
    parameters = inspect.signature(make).parameters
    options: dict[str, Any] = {"root": str(cache_folder()), "download": True}
    if "loader" in parameters:
        options["loader"] = open_image  # torchvision's own drops transparency and makes grey pictures RGB
    try:
        if "train" in parameters:
            train, test = make(**options, train=True), make(**options, train=False)
        else:
            train = make(**options)
            test = _test_split(make, options) if "split" in parameters else None
    except Exception as error:  # each dataset fails in its own way
        raise DataError(f"{name} could not be downloaded: {reason(error)}; pass a folder instead") from error
    held_out = None if test is None else VisionPictures(name, test)
    return Source(name, VisionPictures(name, train), held_out, _label_names(train))


def cache_folder() -> Path:
    """Where downloads are kept: ``$TESSERA_DATA``, or ``~/.cache/tessera``."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/tessera").expanduser()


def _datasets() -> Any:
    # A late import: it takes as long as torch itself, and most runs do not need it.
    from torchvision import datasets

    return datasets


def _is_simple(make: Callable[..., Any]) -> bool:
    parameters = inspect.signature(make).parameters
    required = {p.name for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    return required == {"root"} and ("download" in parameters or hasattr(make, "download"))


def _test_split(make: Callable[..., Any], options: dict[str, Any]) -> Any:
    for split in TESTS:
        try:
            return make(**options, split=split)
        except ValueError:  # no split of that name
            continue
    return None


def _label(target: Any) -> int | None:
    try:
        return operator.index(target)  # numbers, and the arrays and tensors that hold a single one
    except TypeError:
        return None


def _label_names(dataset: Any) -> tuple[str, ...] | None:
    classes = getattr(dataset, "classes", None)
    if not classes:
        return None
    return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in classes)
