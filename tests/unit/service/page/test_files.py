import gzip
import re

import pytest

from service.page.files import FOLDER, PageFiles

# Bytes that a browser gets that has nothing of the page yet, without the examples.
MOST_BYTES = 120_000


@pytest.fixture(scope="module")
def files() -> PageFiles:
    return PageFiles()


def test_the_page_is_light(files: PageFiles) -> None:
    own = [file for name, file in files.files.items() if not name.startswith("examples/")]
    sent = sum(len(file.gzipped or file.content) for file in [files.index, *own])
    assert 0 < sent < MOST_BYTES


def test_the_html_names_all_modules_and_styles_by_their_version(files: PageFiles) -> None:
    html = files.index.content.decode()
    named = set(re.findall(rf'href="page/{files.version}/([^"]+)"', html))
    assert named == {name for name in files.files if name.endswith((".css", ".js"))} | {"icon.svg"}
    assert f'<script type="module" src="page/{files.version}/main.js"></script>' in html


def test_nothing_is_written_for_another_host_or_inline(files: PageFiles) -> None:
    html = files.index.content.decode()
    assert re.findall(r"<script(?! type=\"module\" src=)|<style|\bstyle=|\bon\w+=", html) == []
    for name, file in [("index.html", files.index), *files.files.items()]:
        if file.gzipped is not None:
            hosts = re.findall(rb"https?://[\w.-]+", file.content)
            # A namespace, and a link in a comment.
            assert set(hosts) <= {b"http://www.w3.org", b"https://numpy.org"}, name


def test_what_is_compressed_is_the_same(files: PageFiles) -> None:
    for file in [files.index, *files.files.values()]:
        assert file.gzipped is None or gzip.decompress(file.gzipped) == file.content


def test_a_root_path_is_the_base_and_cannot_end_its_attribute() -> None:
    assert b'<base href="/img/">' in PageFiles("/img").index.content
    assert b'<base href="/a&quot;&gt;/">' in PageFiles('/a">').index.content
    assert b"<base" not in PageFiles().index.content


def test_folders_are_small_and_modules_short() -> None:
    modules = sorted(FOLDER.rglob("*.js"))
    folders = [path.parent for path in modules]
    assert [folder for folder in set(folders) if folders.count(folder) > 9] == []
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in modules}
    assert {name: count for name, count in lines.items() if count > 300} == {}
