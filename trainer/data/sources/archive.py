"""The bundled archive of emoji: pictures in ``train`` and ``test``, in a folder for each class.

Fluent Emoji in the 3D style, (c) Microsoft Corporation, MIT license: 128x128 pixels on white, as WebP of
quality 86, in eight classes, the groups of Unicode. A tenth of each class is held out. The skin tones of an
emoji are in one part, so that no test picture has its double in training.
"""

import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from trainer.data.sources.pictures import Picture, Source, open_image

EMOJI = Path(__file__).parents[1] / "emoji" / "emoji.zip"


@dataclass(frozen=True)
class ArchivePictures:
    """Picture files in an archive, and the index of the class of each."""

    archive: Path
    files: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        return self.files[index]

    def open(self, index: int) -> Picture:
        # Through one handle for all threads: ZipFile locks it while it reads.
        return Picture(open_image(_opened(self.archive).read(self.files[index])), self.labels[index])


def bundled_emoji() -> Source:
    """Emoji: 2,819 training and 314 test pictures of 128x128 in colour, of eight classes."""
    files = [PurePosixPath(name) for name in _opened(EMOJI).namelist()]
    classes = tuple(sorted({file.parts[1] for file in files}))
    parts = []
    for part in ("train", "test"):
        found = [file for file in files if file.parts[0] == part]
        labels = tuple(classes.index(file.parts[1]) for file in found)
        parts.append(ArchivePictures(EMOJI, tuple(map(str, found)), labels))
    return Source("emoji", parts[0], parts[1], classes)


@cache
def _opened(archive: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(archive)
