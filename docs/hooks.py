"""What mkdocs does beyond reading Markdown: adds the generated pages and the repository's pictures.

The generated pages need the service and the trainer; the generator of the site does not. So another
Python writes them, which the variable ``DOCS_PYTHON`` names, and this one only reads what it prints.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<=\]\()(?:\.\./)+[^)\s]+(?=\))")
# What makes a browser ask another host when it shows a page.
FOREIGN = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=.?https?:|<link\b[^>]*\bhref=.?https?:")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and each file outside of docs/ to which a page links."""
    python = os.environ.get("DOCS_PYTHON", ".venv/bin/python")
    printed = subprocess.run(
        [python, "-m", "docs.generate"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    for uri, text in json.loads(printed).items():
        files.append(File.generated(config, uri, content=text))
    for page in files.documentation_pages():
        for link in LINK.findall(page.content_string):
            target = _outside(page.src_uri, link)
            if target is not None and files.get_file_from_path(_copied(target)) is None:
                files.append(File.generated(config, _copied(target), abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links that leave docs/ to the copies; in the repository they need no change."""

    def rewritten(found: re.Match[str]) -> str:
        target = _outside(page.file.src_uri, found[0])
        return found[0] if target is None else relpath(_copied(target), page.file.src_uri + "/..")

    return LINK.sub(rewritten, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a page that would ask another host for something."""
    for page in Path(config.site_dir).rglob("*.html"):
        if found := FOREIGN.search(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page} asks another host: {found[0]}")


def _outside(page: str, link: str) -> str | None:
    """The path in the repository to which a page's link leads, if it is a file outside of docs/."""
    path = normpath(f"docs/{page}/../{link}")
    return path if not path.startswith(("docs/", "../")) and (ROOT / path).is_file() else None


def _copied(path: str) -> str:
    return f"repository/{path}"
