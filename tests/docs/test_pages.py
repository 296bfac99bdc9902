"""What the documents say of settings, problems, endpoints, metrics, alerts, presets and flags is so.

The site's generator is not needed: ``make docs`` alone checks anchors.
"""

import csv
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.generate import COMMANDS, flag, pages, problems
from service.cli import OTHER_VARIABLES
from service.contract import __version__
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([^)\s]+)\)")
WRITTEN = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
WRITTEN += sorted(str(path.relative_to(ROOT)) for path in DOCS.rglob("*.md"))
BOUND = re.compile(r"^max_|^batch_|_seconds$|_timeout$")


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return pages()


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def everything() -> str:
    return "\n".join(read(page) for page in WRITTEN if page != "CHANGELOG.md")


def test_readme_is_short() -> None:
    text = read("README.md")
    assert len(text.splitlines()) <= 120
    assert len(text.split()) <= 900


def test_readme_has_the_three_commands() -> None:
    text = read("README.md")
    for command in (
        "python -m trainer vlae --epochs 30",
        "docker compose up",
        "curl -X POST localhost:8000/encode ",
    ):
        assert command in text


@pytest.mark.parametrize("page", WRITTEN)
def test_links_lead_somewhere(page: str, generated: dict[str, str]) -> None:
    for link in LINK.findall(read(page)):
        target = link.split("#")[0]
        if target and "://" not in target:
            path = ((ROOT / page).parent / target).resolve()
            made = path.is_relative_to(DOCS) and str(path.relative_to(DOCS)) in generated
            assert made or path.is_file(), link


def test_every_page_is_in_the_navigation(generated: dict[str, str]) -> None:
    navigation = read("mkdocs.yml").split("\nnav:\n")[1]
    named = set(re.findall(r"[\w/-]+\.md", navigation))
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert named == written | {page for page in generated if page.endswith(".md")}


def test_settings(generated: dict[str, str]) -> None:
    page = generated["reference/configuration.md"]
    help_text = subprocess.run(
        [sys.executable, "-m", "service", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in Settings.model_fields:
        assert f"`TESSERA_{name.upper()}`" in page
        assert not flag(name) or (f"`{flag(name)}`" in page and flag(name) in help_text)


def test_flags_and_variables_that_are_named_are_there(generated: dict[str, str]) -> None:
    known = set(re.findall(r"--[a-z][a-z0-9-]+", generated["reference/trainer-flags.md"]))
    known |= set(re.findall(r"--[a-z][a-z0-9-]+", generated["reference/bulk-flags.md"]))
    known |= set(re.findall(r"--[a-z][a-z0-9-]+", generated["reference/library-flags.md"]))
    known |= {flag(name) for name in Settings.model_fields} | {"--nproc-per-node"}  # of torchrun
    text = "\n".join(read(page) for page in WRITTEN if not page.startswith("docs/benchmarks/"))
    named = set(re.findall(r"`(--[a-z][a-z0-9-]+)", text))
    assert named
    assert named - known == set()
    # Those of the trainer and of the library, and the example of one that does not exist.
    others = {"TESSERA_API_KEY", *OTHER_VARIABLES}
    variables = set(re.findall(r"TESSERA_[A-Z_]+[A-Z]", text))
    assert variables <= {f"TESSERA_{name.upper()}" for name in Settings.model_fields} | others


def test_every_bound_is_in_the_table_of_limits() -> None:
    table = read("docs/operations/limits.md").split("## Limits with a setting")[1].split("\n## ")[0]
    bounds = [flag(name) for name in Settings.model_fields if BOUND.search(name)]
    assert len(bounds) > 15
    assert [each for each in bounds if f"`{each}`" not in table] == []


def test_problem_types(generated: dict[str, str]) -> None:
    short = {kind.type().removeprefix("urn:tessera:"): kind.status for kind in problems()}
    assert all(f"`urn:tessera:{name}`" in generated["reference/problem-types.md"] for name in short)
    named = re.findall(r"(\d{3}) `([a-z-]+)`", everything())
    assert len(named) > 20
    assert [each for each in named if short.get(each[1]) != int(each[0])] == []


def test_status_codes_are_explained(generated: dict[str, str]) -> None:
    explained = read("docs/operations/limits.md").split("## Status codes")[1]
    answered = set(re.findall(r"^\| ([45]\d\d) \|", generated["reference/api.md"], re.MULTILINE))
    answered |= {str(kind.status) for kind in problems()}
    assert [status for status in answered if f"\n| {status} |" not in explained] == []


def test_endpoints(generated: dict[str, str]) -> None:
    called = set(re.findall(r"^## `(\w+ /\S*)`", generated["reference/api.md"], re.MULTILINE))
    written = read("docs/requests.md") + read("docs/open-inference-protocol.md")
    assert [each for each in sorted(called) if f"`{each}`" not in written] == []
    pages_of_the_service = {"GET /", "GET /docs", "GET /openapi.json"}
    named = set(re.findall(r"`((?:GET|POST) /[^`?]*)`", everything()))
    assert {re.sub(r"NAME", "{name}", each) for each in named} <= called | pages_of_the_service


def test_metrics(generated: dict[str, str]) -> None:
    known = re.findall(r"`(tessera_\w+)`", generated["reference/metrics.md"])
    families = {re.sub(r"_bucket$", "", name) for name in known}
    named = set(re.findall(r"`(tessera_\w+)", everything()))
    assert len(named) > 5
    assert named <= families
    assert {"tessera_batch_rows", "tessera_queue_seconds", "tessera_refusals_total"} <= families


def test_alerts() -> None:
    rules = read("docker/monitoring/prometheus/alerts.yml")
    alerts = set(re.findall(r"alert: (\w+)\n", rules))
    severities = dict(re.findall(r"alert: (\w+)\n.*?severity: (\w+)", rules, re.DOTALL))
    documented = dict(re.findall(r"\| `(Tessera\w+)` \| (\w+) \|", read("docs/operations/monitoring.md")))
    assert documented == {name: severities[name] for name in alerts}


def test_every_kind_and_preset_is_shown(generated: dict[str, str]) -> None:
    for preset in (ROOT / "trainer" / "presets").glob("*.yaml"):
        kind = preset.stem.split("-")[0]
        assert f"## {preset.stem}\n" in generated["reference/presets.md"]
        assert f"`{preset.stem}`" in read("docs/models/index.md")
        assert f"python -m trainer {kind} " in read(f"docs/models/{kind}.md")


def test_every_command_of_the_trainer_has_its_flags(generated: dict[str, str]) -> None:
    help_text = subprocess.run(
        [sys.executable, "-m", "trainer", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = re.findall(r"^  (\w+) {2,}\S", help_text.split("Commands:")[1], re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)
    assert all(f"## {command}\n" in generated["reference/trainer-flags.md"] for command in COMMANDS)


def test_architecture_names_every_package() -> None:
    page = read("docs/architecture/index.md")
    packages = {
        str(path.parent.relative_to(ROOT)) + "/"
        for wing in ("service", "tessera", "trainer")
        for path in (ROOT / wing).rglob("*.py")
    }
    named = set(re.findall(r"`((?:service|tessera|trainer)/[\w/]*/)`", page))
    named |= {"service/", "tessera/", "trainer/"}
    top = {each for each in packages if each.count("/") <= 2}
    assert top - named == set()
    assert all((ROOT / each).is_dir() for each in named)


def test_raw_tables_are_whole() -> None:
    files = sorted((DOCS / "benchmarks" / "data").glob("*.csv"))
    linked = "".join(read(page) for page in WRITTEN if page.startswith("docs/benchmarks/"))
    assert files
    for file in files:
        with file.open(encoding="utf-8", newline="") as lines:
            head, *rows = csv.reader(lines)
        assert all(head)
        assert rows
        assert {len(row) for row in rows} == {len(head)}
        assert f"(data/{file.name})" in linked


def commands_of_pip() -> list[list[str]]:
    """What documents, messages and files of the repository tell somebody to install: words after the verb."""
    folders = ("service", "tessera", "trainer", "docker", ".github")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    kinds = {".py", ".toml", ".yml", ".yaml", ".Dockerfile", ".md"}
    texts = [path.read_text(encoding="utf-8") for path in files if path.suffix in kinds]
    texts += [read(page) for page in (*WRITTEN, "Makefile", "docker-compose.yml")]
    said = [found for text in texts for found in re.findall(r"\bpip install ([^`\n#)]+)", text)]
    return [[word.strip("'\",;:") for word in command.split()] for command in said]


def test_nobody_is_told_to_install_a_name_of_somebody_else() -> None:
    # Nothing of ours is on a package index, where `tessera` is another project.
    named = {word for command in commands_of_pip() for word in command if not word.startswith("-")}
    assert {".", "./trainer"} <= named
    assert [word for word in sorted(named) if word.lower().startswith("tessera")] == []


def test_what_is_ours_can_be_installed_as_it_is_said() -> None:
    ours = {"tessera_codes": ROOT, "tessera_codes_trainer": ROOT / "trainer"}
    built = re.compile(rf"(?:\./)?dist/(\w+?)-{re.escape(__version__)}-py3-none-any\.whl")
    for word in {word for command in commands_of_pip() for word in command if re.match(r"\.|dist", word)}:
        place, _, extras = word.rstrip("]").partition("[")
        wheel = built.fullmatch(place)
        folder = ours[wheel[1]] if wheel else ROOT / place
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert set(filter(None, extras.split(","))) <= project["optional-dependencies"].keys(), word


def test_each_extra_is_in_a_command() -> None:
    said = {word for command in commands_of_pip() for word in command}
    for file, place in (("pyproject.toml", ""), ("trainer/pyproject.toml", "/trainer")):
        for extra in tomllib.loads(read(file))["project"]["optional-dependencies"]:
            assert f".{place}[{extra}]" in said
