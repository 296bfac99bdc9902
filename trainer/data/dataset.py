"""A dataset as the trainer sees it."""

from dataclasses import dataclass

from service.contract.manifest import ImageSpec
from trainer.data.sources.pictures import Skipped
from trainer.data.splits import Split

SHOWN = 3


@dataclass(frozen=True)
class Dataset:
    """Images to train on and images to test on, all made to fit ``spec``.

    ``label_names`` are those of the classes, if the training images have classes. ``skipped`` are the
    pictures that could not be read, of ``pictures`` that were tried.
    """

    name: str
    train: Split
    test: Split
    spec: ImageSpec
    label_names: tuple[str, ...] | None
    pictures: int
    skipped: tuple[Skipped, ...] = ()

    @property
    def classes(self) -> int:
        """How many classes the images have; 0 if they have none."""
        return len(self.label_names or ())

    def summary(self) -> str:
        """What there is, in one line."""
        classes = "no classes" if self.label_names is None else f"{len(self.label_names):,} classes"
        line = (
            f"{len(self.train):,} training and {len(self.test):,} test images, "
            f"{self.spec.height}x{self.spec.width}x{self.spec.channels}, {classes}"
        )
        if not self.skipped:
            return line
        shown = ", ".join(map(str, self.skipped[:SHOWN]))
        more = f" and {len(self.skipped) - SHOWN:,} more" if len(self.skipped) > SHOWN else ""
        return f"{line}; {len(self.skipped):,} of {self.pictures:,} pictures skipped: {shown}{more}"
