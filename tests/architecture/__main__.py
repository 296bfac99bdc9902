"""Print the measures of the architecture beside their limits; exit with 1 if one is exceeded.

python -m tests.architecture            or: make architecture
python -m tests.architecture --files    and which files a request and a training run enter
"""

import sys
from collections.abc import Iterable

from tests.architecture import limits, source, tracing
from tests.architecture.vocabulary import misnamed

LONGEST = 5


class Report:
    """Prints measures, and keeps whether one of them is over its limit."""

    def __init__(self) -> None:
        self.exceeded = False

    def measure(self, what: str, value: int, limit: int, details: Iterable[str] = ()) -> None:
        over = value > limit
        self.exceeded |= over
        self.write(f"{what}: {value} (at most {limit}){'  EXCEEDED' if over else ''}", details)

    def write(self, line: str, details: Iterable[str] = ()) -> None:
        sys.stdout.write("".join(f"{each}\n" for each in (line, *(f"  {detail}" for detail in details))))


def main() -> int:
    report = Report()
    of_source(report)
    of_imports(report)
    of_walks(report, with_files="--files" in sys.argv)
    names = misnamed()
    report.measure("Names with a word that the field does not say", len(names), 0, names)
    return int(report.exceeded)


def of_source(report: Report) -> None:
    folders = source.modules_by_folder()
    report.write("Modules by folder:", [f"{number:2}  {folder}" for folder, number in folders.items()])
    report.measure("Modules in the fullest folder", max(folders.values()), limits.MODULES_IN_A_FOLDER)
    for wing in source.WINGS:
        report.write(f"Files in {wing}/: {len(source.files(wing))}")
    lines = source.lines_by_file()
    long = [f"{number:3}  {path}" for path, number in lines.items() if number > limits.LINES_IN_A_FILE]
    report.measure("Lines of the longest file", max(lines.values()), limits.LINES_IN_A_FILE, long)
    functions = sorted(source.functions(), reverse=True)
    longest = [f"{each.lines:2}  {each.name}, {each.place}" for each in functions[:LONGEST]]
    report.measure("Lines of the longest function", functions[0].lines, limits.LINES_IN_A_FUNCTION, longest)


def of_imports(report: Report) -> None:
    imports = source.imports()
    circles = source.circles(source.executed(imports))
    report.measure("Import circles of modules", len(circles), 0, map(", ".join, circles))
    circles = source.circles(source.folder_imports(imports))
    report.write(f"Import circles of folders: {len(circles)} (no limit)", map(", ".join, circles))


def of_walks(report: Report, *, with_files: bool) -> None:
    for walk in tracing.WALKS.values():
        files = tracing.files_of(walk.name)
        report.measure(f"Files that {walk.title} enters", len(files), walk.limit, files if with_files else ())


if __name__ == "__main__":
    sys.exit(main())
