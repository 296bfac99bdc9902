import pytest

from service.cli import OTHER_VARIABLES, from_command_line, unknown_variables
from trainer.data.sources.vision import CACHE_VARIABLE
from trainer.export.reload import URL_VARIABLE


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("TESSERA_API_KEY", "TESSERA_API_KEYS"),
        ("tessera_api_key", "TESSERA_API_KEYS"),
        ("TESERA_API_KEYS", "TESSERA_API_KEYS"),
        ("TESSERRA_RELOAD_KEY", "TESSERA_RELOAD_KEY"),
        ("TESSREA_API_KEYS", "TESSERA_API_KEYS"),
        ("TESSERA__PORT", "TESSERA_PORT"),
        ("TESSERA_MODLES", "TESSERA_MODELS"),
    ],
)
def test_a_variable_that_is_nearly_ours_ends_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(SystemExit) as exit_:
        from_command_line([])
    said = capsys.readouterr().err
    assert exit_.value.code == 2
    assert said.endswith(f": the variable {name!r} is no setting; did you mean {nearest!r}?\n")
    assert said.count("\n") == 1


def test_other_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("tessera_port", "9003")
    assert from_command_line([]).port == 9003
    fine = ["TESSERA_PORT", "TESSERACT_PORT", "TESSDATA_PREFIX", "PORT", "API_KEYS", "MODELS", "T" * 10**5]
    assert unknown_variables(dict.fromkeys([*fine, *OTHER_VARIABLES], "1")) == []
    of_the_library = {"TESSERA_URL", "TESSERA_CLIENT_KEY"}
    assert {CACHE_VARIABLE, URL_VARIABLE} | of_the_library == OTHER_VARIABLES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TESSERA_PORT", "tcp://10.0.0.7:8000"),
        ("TESSERA_SERVICE_HOST", "10.0.0.7"),
        ("TESSERA_SERVICE_PORT", "8000"),
        ("TESSERA_SERVICE_PORT_HTTP", "8000"),
        ("TESSERA_PORT_8000_TCP_ADDR", "10.0.0.7"),
        ("TESSERA_CANARY_PORT", "tcp://10.0.0.8:8000"),
        ("TESSERA_CANARY_PORT_8000_TCP", "tcp://10.0.0.8:8000"),
    ],
)
def test_a_variable_that_kubernetes_sets_has_its_own_error(name: str, value: str) -> None:
    (complaint,) = unknown_variables({name: value})
    assert complaint.startswith(f"{name!r} is set by Kubernetes for a Service")
    assert "enableServiceLinks: false" in complaint


def test_complaints_of_many_variables_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(50):
        monkeypatch.setenv(f"TESSERA_{number}_{'x' * 500}", "x")
    with pytest.raises(SystemExit):
        from_command_line([])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert len(said) < 500
