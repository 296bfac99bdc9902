"""What comes of a picture: its pixels, or the problem that is told."""

from typing import Any
from unittest import mock

from service import images, plain
from service.errors import Problem
from service.manifest import ImageSpec
from service.settings import Settings


def outcome(data: bytes, spec: ImageSpec, settings: Settings, *, resize: bool) -> tuple[Any, ...]:
    """The bytes, shape and sizes of the pixels of a file, or the type, text and members of its problem."""
    try:
        if resize:
            fitted = images.from_files([data], spec, settings)
            return fitted.pixels.tobytes(), fitted.pixels.shape, fitted.sizes
        array = images.from_files([data], spec, settings, resize=False).pixels
    except Problem as problem:
        return type(problem), str(problem), problem.members
    return array.tobytes(), array.shape


def by_pillow_alone(data: bytes, spec: ImageSpec, settings: Settings, *, resize: bool) -> tuple[Any, ...]:
    """The same if Pillow reads every file."""
    with mock.patch.object(plain, "decode", return_value=None):
        return outcome(data, spec, settings, resize=resize)
