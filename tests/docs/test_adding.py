"""The pages on adding something, each applied to a copy of the sources that then trains and serves.

A block with a file as its title is a new file, or, if it is a diff, a change to one.
"""

import ast
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.contract.roles import Role
from tests.fixtures import toy_models, trained_models
from tests.fixtures.processes import PATIENCE, ROOT, serving, start

PAGES = ROOT / "docs" / "architecture"
# A page may build on those before it.
ADDING = ("adding-a-kind", "adding-a-sampler", "adding-a-role", "adding-an-endpoint")
BLOCK = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)
SEVEN = (ROOT / "tests" / "fixtures" / "seven.png").read_bytes()
JSON = {"Accept": "application/json"}


def read(page: str) -> str:
    return (PAGES / f"{page}.md").read_text(encoding="utf-8")


def apply(page: str, folder: Path) -> None:
    for language, name, text in BLOCK.findall(read(page)):
        path = folder / name
        if language != "diff":
            assert not path.exists()
            path.write_text(text, encoding="utf-8")
            continue
        content = path.read_text(encoding="utf-8")
        for hunk in text.split("@@\n"):
            lines = hunk.splitlines(keepends=True)
            before, after = (
                "".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +")
            )
            assert content.count(before) == 1, f"{name}: {before}"
            content = content.replace(before, after)
        path.write_text(content, encoding="utf-8")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A client of a service with all four pages applied, of the model that they made, and of a toy model."""
    folder = tmp_path_factory.mktemp("sources")
    for wing in ("service", "trainer"):
        shutil.copytree(ROOT / wing, folder / wing)
    for page in ADDING:
        apply(page, folder)
    # The copy is imported, and not the sources in the working directory.
    variables = {"PYTHONPATH": str(folder), "PYTHONSAFEPATH": "1"}
    exported = folder / "exported"
    flags = ["--dim=3", "--epochs=1", "--batch-size=32", "--device=cpu", "--publish-anyway"]
    places = [f"--data={trained_models.digits()}", f"--out={folder}/runs", f"--export-to={exported}"]
    training = start("trainer", "toy", *flags, *places, output=subprocess.STDOUT, **variables)
    printed, _ = training.communicate(timeout=PATIENCE)
    assert training.returncode == 0, printed
    toy_models.write_levels(exported)
    flags = ["--workers=1", "--threads=1", "--provider=cpu", "--default-model=toy-mnist"]
    with (
        serving(exported, *flags, **variables) as url,
        httpx2.Client(base_url=url, trust_env=False, timeout=PATIENCE) as client,
    ):
        yield client


@pytest.mark.parametrize("page", ADDING)
def test_the_table_of_a_page_names_what_its_blocks_touch(page: str) -> None:
    listed = re.findall(r"^\| `([^`]+)` \|", read(page).split("\n## ")[0], re.MULTILINE)
    touched = [name for _, name, _ in BLOCK.findall(read(page))]
    assert touched
    assert listed[: len(touched)] == touched


@pytest.mark.parametrize("page", ADDING)
def test_the_code_of_a_page_is_linted_and_formatted(page: str) -> None:
    for language, name, text in BLOCK.findall(read(page)):
        if language == "python":
            for command in (["check"], ["format", "--check"]):
                ruff = [sys.executable, "-m", "ruff", *command, f"--stdin-filename={name}", "-"]
                run = subprocess.run(ruff, cwd=ROOT, input=text, capture_output=True, text=True, check=False)
                assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("page", ADDING)
def test_a_page_imports_names_from_where_they_are_defined(page: str) -> None:
    # The type checker of `make check` asks for it, and takes minutes.
    for language, _, text in BLOCK.findall(read(page)):
        for node in ast.parse(text).body if language == "python" else ():
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("service", "trainer")):
                assert {each.name for each in node.names} <= _exported(str(node.module)), node.module


def _exported(module: str) -> set[str]:
    """What a module defines, and what its ``__all__`` has besides."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found: set[str] = set()
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {each.id for each in targets if isinstance(each, ast.Name)}
            found |= names
            if names == {"__all__"} and node.value is not None:
                found |= set(ast.literal_eval(node.value))
    return found


def test_every_role_is_in_the_table_of_the_concepts() -> None:
    table = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8").split("| role |")[1].split("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted(Role)


@pytest.mark.e2e
def test_adding_a_kind(client: httpx2.Client) -> None:
    described = client.get("/models/toy-mnist").json()
    assert described["kind"] == "toy"
    encoded = client.post("/encode", content=SEVEN).json()
    assert encoded["shape"] == [1, 3]
    decoded = client.post("/decode", json=encoded)
    assert decoded.headers["content-type"] == "image/png"


@pytest.mark.e2e
def test_adding_a_sampler(client: httpx2.Client) -> None:
    def sample(**query: float) -> dict[str, Any]:
        given: dict[str, str | float] = {"method": "walk", "n": 4, "seed": 1, **query}
        response = client.post("/sample", params=given, headers=JSON)
        assert response.status_code == 200, response.text
        document: dict[str, Any] = response.json()
        return document

    start, walked = sample(renewal=0), sample(steps=20)
    assert walked["parameters"] == pytest.approx({"steps": 20, "renewal": 0.1})
    assert walked == sample(steps=20)
    assert walked["codes"] != start["codes"]
    norms = [math.hypot(*code) for code in start["codes"]]
    assert start["figures"]["farthest"] == pytest.approx(norms, rel=1e-5)
    decoded = client.post("/decode", json={"codes": walked["codes"]}, headers=JSON).json()
    assert decoded["images"] == walked["images"]
    assert client.post("/sample?method=walk&steps=101").status_code == 422


@pytest.mark.e2e
def test_adding_a_role(client: httpx2.Client) -> None:
    url = "/v2/models/toy-mnist"
    _, weights = client.get(url).json()["inputs"]
    assert (weights["name"], weights["datatype"], weights["shape"]) == ("weights", "FP32", [-1])
    assert weights["parameters"]["optional"]
    assert weights["parameters"]["description"].startswith("The weight of the row.")
    images = {"name": "images", "shape": [2, 28, 28, 1], "datatype": "UINT8", "data": [99] * 2 * 28 * 28}

    def infer(*weights: float) -> dict[str, Any]:
        given = {"name": "weights", "shape": [len(weights)], "datatype": "FP64", "data": list(weights)}
        body = {"inputs": [images, given] if weights else [images]}
        document: dict[str, Any] = client.post(f"{url}/infer", json=body).json()
        return document

    plain, weighted = (infer(*given)["outputs"][0]["data"] for given in ((), (1, 2)))
    assert plain[:3] == pytest.approx(plain[3:])
    assert weighted == pytest.approx([*plain[:3], *(2 * number for number in plain[3:])])
    assert "0 to 10" in infer(1, 11)["detail"]


@pytest.mark.e2e
def test_adding_an_endpoint(client: httpx2.Client) -> None:
    query = {"model": "levels"}
    counts = client.post("/histogram", params=query, content=SEVEN).json()["counts"]
    codes = client.post("/encode", params=query, content=SEVEN).json()["codes"][0]
    every = [code for row in codes for code in row]
    assert counts == [every.count(level) for level in range(toy_models.LEVELS)]
    # The errors, the description and the metrics follow.
    assert client.post("/histogram", content=b"?").json()["type"] == "urn:tessera:unsupported-media-type"
    assert client.post("/histogram?modle=levels", content=SEVEN).status_code == 422
    document = client.get("/openapi.json").json()
    described = document["paths"]["/histogram"]["post"]
    assert described["operationId"] == "histogram"
    assert set(described["responses"]) >= {"200", "401", "415", "422", "429"}
    assert "counts" in document["components"]["schemas"]["HistogramResponse"]["required"]
    counted = (
        'tessera_requests_total{method="POST",model="levels",path="/histogram",status="200",worker="0"} 1.0'
    )
    assert counted in client.get("/metrics").text
