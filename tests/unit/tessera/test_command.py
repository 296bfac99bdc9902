"""The commands, in this process, with a toy model in a folder."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tessera
from service.codecs.images import to_png
from tessera.__main__ import main
from tests.fixtures import toy_models

Run = Callable[..., tuple[int, bytes, str]]

NOISE = np.random.default_rng(0).integers(0, 256, (28, 28, 1), dtype=np.uint8)


@pytest.fixture
def run(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> Run:
    """Runs a command in a folder with a picture: the exit code, and what it writes to stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "noise.png").write_bytes(to_png(NOISE))
    (tmp_path / "ragged.json").write_text('{"codes": [[1], [1, 2]]}')

    def run(*words: str, model: str = "levels") -> tuple[int, bytes, str]:
        flags = [f"--model={folder / model}"] if model else []
        monkeypatch.setattr(sys, "argv", ["tessera", *words, *flags])
        code = main()
        out, error = capsysbinary.readouterr()
        return code, out, error.decode()

    return run


def test_encode_and_decode(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("encode", "noise.png")
    document = json.loads(out)
    codes = toy_models.levels(NOISE[None])
    assert code == 0
    assert (document["model"], document["shape"], document["dtype"]) == ("levels", [1, 7, 7], "int32")
    assert document["codes"] == codes.tolist()
    (tmp_path / "codes.json").write_bytes(out)
    assert run("encode", "noise.png", "--out=codes.npy") == (0, b"", "")
    for name in ("codes.json", "codes.npy"):
        code, out, _ = run("decode", name)
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(out))), toy_models.pixels(codes)[0, :, :, 0]
        )
    assert run("decode", "codes.json", "-o", "images.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), toy_models.pixels(codes))


def test_codes_of_another_version_are_refused(run: Run, tmp_path: Path) -> None:
    document = {"version": "f" * 12, "codes": [[[1, 2], [3, 4]]]}
    (tmp_path / "codes.json").write_text(json.dumps(document))
    code, _, said = run("decode", "codes.json")
    assert code == 1
    assert said.startswith(
        "tessera: the codes are of version 'ffffffffffff' of the model, and this is version"
    )


def test_the_other_commands(run: Run) -> None:
    assert run("reconstruct", "noise.png", "-o", "made.png")[2].startswith("noise.png: ")
    code, out, _ = run("score", "noise.png", "--seed=1", "-p", "samples=5", model="wanderer")
    assert (code, json.loads(out)["parameters"]) == (0, {"samples": 5})
    assert run("sample", "-n2", "--method=stroll", "--seed=7", "-o", "two.png", model="wanderer") == (
        0,
        b"",
        "seed 7\n",
    )
    box = ("--box=0,0,14,28", "--label=1", "-o", "whole.npy")
    assert run("complete", "noise.png", *box, "-n3", model="patchwork")[0] == 0
    assert np.load("whole.npy").shape == (3, 28, 28, 1)
    assert run("interpolate", "noise.png", "noise.png", "-n3", "-o", "row.png", model="wanderer")[0] == 0
    with Image.open("row.png") as row:
        assert row.size == (3 * 8 + 2 * 2, 8)
    assert run("codebook", "-o", "codebook.npy")[0] == 0
    np.testing.assert_array_equal(np.load("codebook.npy"), toy_models.VECTORS)
    assert json.loads(run("info")[1])["codes"]["shape"] == [7, 7]
    assert [each["name"] for each in json.loads(run("models")[1])] == ["levels"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["encode", "nothing.png"], 1, "nothing.png: No such file or directory"),
        (["encode", "noise.png", "--seed=-1"], 1, "seed is -1; it must be a whole number"),
        (["encode", "noise.png", "-p", "tempo=1"], 1, "there is no parameter 'tempo'"),
        (["encode", "noise.png", "-p", "tempo"], 2, "'tempo' is no NAME=NUMBER"),
        (["encode", "noise.png", "-p", "tempo=x"], 2, "'tempo=x' is no number after ="),
        (["complete", "noise.png", "--box=1,2"], 2, "is not LEFT,TOP,RIGHT,BOTTOM in whole pixels"),
        (["decode", "noise.png"], 1, "noise.png is neither npy nor JSON"),
        (["decode", "ragged.json"], 1, "the codes are no array of numbers"),
        (["encode"], 2, "Missing argument"),
    ],
)
def test_a_mistake_is_one_line(run: Run, words: list[str], code: int, said: str) -> None:
    ended, out, error = run(*words)
    assert (ended, out) == (code, b"")
    assert error.startswith("tessera: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_model_must_be_chosen(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("info", model="")[::2] == (
        2,
        "tessera: choose a model: --model FOLDER, or --url URL of a service\n",
    )
    monkeypatch.setenv("TESSERA_URL", "http://127.0.0.1:9")
    code, _, said = run("info", model="")
    assert code == 1
    assert said.startswith("tessera: http://127.0.0.1:9 cannot be reached: ")


def test_a_terminal_gets_no_binary_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code, out, said = run("codebook")
    assert (code, out) == (2, b"")
    assert said == "tessera: a terminal shows no binary file; name one with --out\n"
    assert run("encode", "noise.png")[0] == 0


def test_the_version(run: Run) -> None:
    assert run("--version", model="")[1].decode() == f"tessera, version {tessera.__version__}\n"


def test_without_a_command_the_help_is_shown(run: Run) -> None:
    code, out, said = run(model="")
    assert (code, out) == (2, b"")
    assert said.startswith("Usage: tessera [OPTIONS] COMMAND")
    assert "\n  encode " in said
