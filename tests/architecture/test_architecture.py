"""The limits of `limits.py` hold. `make architecture` prints the measures themselves."""

import re
from pathlib import Path

import pytest

from tests.architecture import limits, source, tracing
from tests.architecture.vocabulary import misnamed


def test_no_folder_has_too_many_modules() -> None:
    found = source.modules_by_folder()
    assert Path("service/api/routes") in found
    assert {folder: number for folder, number in found.items() if number > limits.MODULES_IN_A_FOLDER} == {}


def test_no_file_is_too_long() -> None:
    found = source.lines_by_file()
    assert {path: lines for path, lines in found.items() if lines > limits.LINES_IN_A_FILE} == {}


def test_no_function_is_too_long() -> None:
    assert [each for each in source.functions() if each.lines > limits.LINES_IN_A_FUNCTION] == []


def test_no_modules_import_each_other() -> None:
    assert source.circles(source.executed(source.imports())) == []


def test_the_library_imports_the_service_alone_and_nothing_imports_the_library() -> None:
    found = source.imports()
    wings = {name: {each.split(".")[0] for each in targets} for name, targets in found.items()}
    of_the_library = {name for name in found if name.split(".")[0] == "tessera"}
    assert set().union(*(wings[name] for name in of_the_library)) == {"service", "tessera"}
    assert [name for name in found.keys() - of_the_library if "tessera" in wings[name]] == []


def test_a_circle_is_found_under_type_checking_and_inside_a_function(tmp_path: Path) -> None:
    (tmp_path / "wing" / "room").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "one": "if TYPE_CHECKING:\n    from wing.room import two\n",
        "two": "def f():\n    import wing.three\n",
        "three": "from wing.one import anything\n",
        "four": "from wing.one import anything\n",
    }.items():
        folder = tmp_path / "wing" / ("room" if name == "two" else "")
        (folder / f"{name}.py").write_text(text)
    found = source.imports(tmp_path, ("wing",))
    assert found["wing.one"] == {"wing.room.two"}
    assert source.circles(found) == [["wing.one", "wing.room.two", "wing.three"]]


def test_a_circle_is_found_through_the_package_of_a_module() -> None:
    imports = {"a.b": {"a.b.c"}, "a.b.c": {"d"}, "a.b.e": set(), "d": {"a.b.e"}}
    assert source.circles(imports) == []
    assert source.circles(source.executed(imports)) == [["a.b", "a.b.c", "d"]]


def test_names_have_the_words_of_the_field() -> None:
    assert misnamed() == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("HTTPServer", ["http", "server"]),
        ("_max_head_bytes", ["max", "head", "bytes"]),
        ("V2Wire", ["v", "wire"]),
    ],
)
def test_names_are_made_of_words(name: str, words: list[str]) -> None:
    assert source.words(name) == words


@pytest.mark.slow
@pytest.mark.parametrize("walk", tracing.WALKS.values(), ids=tracing.WALKS)
def test_a_walk_enters_few_files_and_its_page_lists_them(walk: tracing.Walk) -> None:
    found = tracing.files_of(walk.name)
    assert len(found) <= walk.limit, found
    page = (source.ROOT / "docs" / "architecture" / f"{walk.page}.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \d+ \| `([^`]+)` \|", page, re.MULTILINE) == found
