from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from service.cli import from_command_line
from service.settings import Settings, flag, meaning, variable


def test_defaults() -> None:
    settings = from_command_line([])
    assert (settings.host, settings.port, settings.models) == ("127.0.0.1", 8000, ("exported",))
    assert settings.default_model is None
    assert settings.provider == "auto"


def test_flags_win_over_the_environment_and_that_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_PORT", "9001")
    monkeypatch.setenv("TESSERA_MAX_IMAGES", "5")
    monkeypatch.setenv("TESSERA_DEFAULT_MODEL", "")
    settings = from_command_line(["--port", "9002", "--models=elsewhere"])
    assert (settings.port, settings.max_images, settings.models) == (9002, 5, ("elsewhere",))
    assert settings.default_model is None


def test_models_are_folders_and_models_of_the_hub() -> None:
    settings = from_command_line(["--models", "exported, hf://ada/engine@v1"])
    assert settings.models == ("exported", "hf://ada/engine@v1")
    folder: Any = Path("exported")
    assert Settings(models=folder).models == ("exported",)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("hf://engine", "'hf://engine' is no model of the hub; it is hf://OWNER/NAME"),
        ("exported,", "a source of models is a folder or hf://OWNER/NAME"),
    ],
)
def test_a_source_that_is_none_stops_the_start(
    capsys: pytest.CaptureFixture[str], bad: str, reason: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        from_command_line(["--models", bad])
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert f"--models: {reason}" in said
    assert said.count("\n") == 1


def test_without_keys_there_are_none() -> None:
    assert (Settings().api_keys, Settings().reload_key) == ((), None)


def test_empty_variables_are_as_good_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    # Compose passes an unset variable as an empty one.
    for name in Settings.model_fields:
        monkeypatch.setenv(variable(name), "")
    assert from_command_line([]) == Settings()


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("TESSERA_API_KEYS", bad) for bad in (" ", "\n", ",", "secret,", "secret,,other", "sec ret")),
        *(("TESSERA_RELOAD_KEY", bad) for bad in (" ", "\n", "sec ret", "s\u00e9cret", "s" * 513)),
    ],
)
def test_an_invalid_key_stops_the_start_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, bad: str
) -> None:
    monkeypatch.setenv(name, bad)
    with pytest.raises(SystemExit) as exit_:
        from_command_line([])
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert f"{name}: a key is empty" in said
    assert "is empty, has over 512 characters or one that a header cannot carry" in said
    assert said.count("\n") == 1
    assert not {"secret", "sec", "other"} & set(said.replace(",", " ").split())


def test_the_line_break_of_a_file_belongs_to_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_RELOAD_KEY", "three\n")
    key = from_command_line([]).reload_key
    assert key is not None
    assert key.get_secret_value() == "three"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--prot", "9000"],
            "No such option '--prot'. (Did you mean one of: '--host', '--port', '--provider'?)",
        ),
        (["--modles=x"], "No such option '--modles'. (Did you mean one of: '--models', '--samplers'?)"),
        (["exported"], "Got unexpected extra argument (exported)"),
        (["--port", "many"], "--port: Input should be a valid integer"),
        (["--port", "70000"], "--port: Input should be less than or equal to 65535, not '70000'"),
        (["--provider", "tpu"], "--provider: Input should be 'auto', 'cpu' or 'cuda', not 'tpu'"),
        (["--port"], "Option '--port' requires an argument."),
        (
            ["--metrics=all"],
            "--metrics: Input should be 'key', 'open' or a port from 0 to 65535",
        ),
        (["--metrics=65536"], "'key', 'open' or a port from 0 to 65535, not '65536'"),
        (["--drain-seconds=inf"], "--drain-seconds: Input should be a finite number, not 'inf'"),
        (["--threads=100000"], "--threads: Input should be less than or equal to 1024, not '100000'"),
        (["--cors-origins=app.example"], "an origin is a scheme, a host and perhaps a port"),
        (["--cors-origins=https://app.example/"], "or * for all, not 'https://app.example/'"),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        from_command_line(arguments)
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert complaint in said
    assert said.count("\n") == 1


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TESSERA_MAX_PIXELS", "0")
    with pytest.raises(SystemExit):
        from_command_line([])
    assert "TESSERA_MAX_PIXELS: Input should be greater than" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "meant"), [("open", "open"), ("key", "key"), ("9100", 9100), ("0", 0)])
def test_who_may_read_the_metrics(given: str, meant: object) -> None:
    assert from_command_line([f"--metrics={given}"]).metrics == meant


def test_origins_have_commas_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TESSERA_CORS_ORIGINS", "https://app.example, http://localhost:3000")
    assert from_command_line([]).cors_origins == ("https://app.example", "http://localhost:3000")
    assert from_command_line(["--cors-origins=*"]).cors_origins == ("*",)


def test_help_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        from_command_line(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 0
    for name, field in Settings.model_fields.items():
        assert meaning(field)
        assert (flag(name) or variable(name)) in shown
        assert meaning(field) in shown


def test_keys_come_from_the_environment_alone_and_are_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_API_KEYS", "one, two\n")
    monkeypatch.setenv("TESSERA_RELOAD_KEY", "three")
    settings = from_command_line([])
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert settings.reload_key is not None
    assert not {"one", "two", "three"} & set(str(settings).replace("'", " ").split())
    with pytest.raises(SystemExit):
        from_command_line(["--api-keys", "four"])
    assert (
        "TESSERA_API_KEYS is no flag, because all users of the machine can read flags; set the variable"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("given", ["alice:one", "one,a.b-c_D:two,alice:three"])
def test_a_key_may_have_a_name(given: str) -> None:
    assert [key.get_secret_value() for key in Settings(api_keys=given).api_keys] == given.split(",")  # type: ignore[arg-type]  # pydantic splits it


@pytest.mark.parametrize(
    "given", [":secret", "alice:", "alice:sec:ret", "al/ice:secret", f"{'a' * 65}:secret"]
)
def test_an_invalid_name_of_a_key_is_refused(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TESSERA_API_KEYS", f"good,{given}")
    with pytest.raises(SystemExit):
        from_command_line([])
    said = capsys.readouterr().err
    assert "TESSERA_API_KEYS: a key with a colon is NAME:KEY" in said
    assert "secret" not in said


@pytest.mark.parametrize(("said", "meant"), [("true", True), ("1", True), ("false", False)])
def test_what_is_true_or_false(said: str, meant: bool) -> None:
    assert from_command_line(["--tf32", said]).tf32 is meant


def test_neither_true_nor_false(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        from_command_line(["--tf32", "perhaps"])
    assert "--tf32: Input should be a valid boolean" in capsys.readouterr().err


def test_bodies_in_flight_have_room_for_the_largest() -> None:
    assert Settings(max_body_bytes=1000).max_inflight_bytes == 1250
    assert Settings(max_body_bytes=1000, max_inflight_bytes=1000).max_inflight_bytes == 1000


def test_less_room_for_bodies_than_for_one_is_no_start(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        from_command_line(["--max-inflight-bytes", "999", "--max-body-bytes", "1000"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "--max-inflight-bytes: must be at least --max-body-bytes (1000), not '999'" in said
