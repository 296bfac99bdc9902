"""The files of the page ``/``: read, named by their content and compressed once, when the app is made.

The page is ``service/page``: HTML, CSS and ES modules, served as they are. All files but the HTML have the
version of all of them in their path, so a browser may keep them for good.
"""

import gzip
import hashlib
import html
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
INDEX = "index.html"
# In the HTML; what stands there depends on the version and on the root path.
_LINKS = "<!-- links -->"

_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".webp": "image/webp",
}
# Of the others, gzip would save nothing.
_COMPRESSED = {".css", ".html", ".js", ".svg"}


class PageFile(NamedTuple):
    """One file: its content, the same as gzip where that is smaller, and an ``ETag`` without its quotes."""

    media_type: str
    content: bytes
    gzipped: bytes | None
    etag: str

    @classmethod
    def of(cls, suffix: str, content: bytes) -> "PageFile":
        """The file with this content; ``suffix`` is that of its name."""
        gzipped = gzip.compress(content, 9, mtime=0) if suffix in _COMPRESSED else None
        return cls(_MEDIA_TYPES[suffix], content, gzipped, hashlib.sha256(content).hexdigest()[:16])


class PageFiles:
    """The page below ``root_path``: ``index``, and the other ``files`` by their path in the folder."""

    def __init__(self, root_path: str = "") -> None:
        contents = {
            path.relative_to(FOLDER).as_posix(): path.read_bytes()
            for path in sorted(FOLDER.rglob("*"))
            if path.suffix in _MEDIA_TYPES
        }
        self.version = hashlib.sha256(repr(sorted(contents.items())).encode()).hexdigest()[:12]
        index = contents.pop(INDEX).decode()
        self.files = {name: PageFile.of(Path(name).suffix, content) for name, content in contents.items()}
        links = "\n".join(self._links(root_path))
        self.index = PageFile.of(".html", index.replace(_LINKS, links).encode())

    def _links(self, root_path: str) -> list[str]:
        """The head's links: styles, icon and modules, which the browser fetches at once."""
        below = f"page/{self.version}"
        names = sorted(self.files)
        return [
            # `/img` has no slash at its end, so addresses that are relative to it are not below it.
            *([f'<base href="{html.escape(root_path)}/">'] if root_path else []),
            *(f'<link rel="stylesheet" href="{below}/{name}">' for name in names if name.endswith(".css")),
            f'<link rel="icon" href="{below}/icon.svg" type="image/svg+xml">',
            *(f'<link rel="modulepreload" href="{below}/{name}">' for name in names if name.endswith(".js")),
            f'<script type="module" src="{below}/main.js"></script>',
        ]
