"""References to models of the hub: ``hf://owner/name``, or ``hf://owner/name@revision``."""

import re
from dataclasses import dataclass
from typing import Self

from service.errors import quoted

PREFIX = "hf://"

# As the hub has them: 96 characters of a name, with a letter or a digit at both ends.
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REFERENCE = re.compile(rf"{PREFIX}({_NAME}/{_NAME})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,255}}))?")


@dataclass(frozen=True)
class Reference:
    """A repository ``owner/name``, and a branch, tag or commit of it; None stands for ``main``."""

    repository: str
    revision: str | None

    @classmethod
    def parse(cls, source: str) -> Self:
        """The reference in a text. Raises ValueError."""
        if (found := _REFERENCE.fullmatch(source)) is None:
            raise ValueError(
                f"{quoted(source)} is no model of the hub; it is hf://OWNER/NAME or hf://OWNER/NAME@REVISION"
            )
        return cls(found[1], found[2])

    @property
    def name(self) -> str:
        """The name of the repository, without its owner."""
        return self.repository.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_reference(source: str) -> bool:
    """Whether a source is of the hub, and not a folder."""
    return source.startswith(PREFIX)
