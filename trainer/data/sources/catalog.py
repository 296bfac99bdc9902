"""What a ``--data`` stands for."""

from pathlib import Path

from trainer.data.sources import folder, hub, idx, vision
from trainer.data.sources.pictures import Source
from trainer.errors import DataError, nearest

BUNDLED = "mnist"


def find(source: str) -> Source:
    """The source of pictures that ``--data`` names.

    In this order: ``mnist`` for the bundled files (a folder of that name is ``./mnist``), ``hf:NAME``, a
    folder that exists, the name of a torchvision dataset in any case. Raises DataError if it is none of
    these, or what it names cannot be had or holds no pictures.
    """
    if source.lower() == BUNDLED:
        return idx.bundled_mnist()
    if source.startswith(hub.PREFIX):
        return hub.read(source)
    if (path := _existing(source)) is not None:
        found = idx.read_set(path) if idx.is_set(path) else folder.read_folder(path)
    elif (name := vision.find(source)) is not None:
        found = vision.read(name)
    else:
        raise _unknown(source)
    return found


def _existing(source: str) -> Path | None:
    path = Path(source).expanduser()
    try:
        if source and path.exists() and not path.is_dir():
            raise DataError(f"{source} is a file, not a folder; an archive has to be unpacked first")
        return path if source and path.is_dir() else None
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from error


def _unknown(source: str) -> DataError:
    folders = [str(entry) for entry in Path(source).expanduser().parent.glob("*/")]
    return DataError(
        f"there is no data {source!r}: it can be {BUNDLED}, a folder of IDX files or of pictures, "
        f"a torchvision dataset (CIFAR10, FashionMNIST, ...) or hf:NAME[:CONFIG]."
        f"{nearest(source, [*vision.names(), *folders, BUNDLED])}"
    )
