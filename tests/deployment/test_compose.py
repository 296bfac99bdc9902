"""What ``docker compose`` starts, and how little it may do."""

import re
import subprocess
import sys
from typing import Any

import pytest

from service.cli import unknown_variables
from service.runtime.providers import OLDEST_DRIVER
from service.server.supervisor import SLACK
from service.settings import SECRETS, Settings, variable
from tests.deployment.files import COMPOSE, ROOT, services
from trainer.data.sources.vision import CACHE_VARIABLE
from trainer.export.reload import KEY_VARIABLE, URL_VARIABLE

OURS = ("service", "cpu", "train", "train-cpu")
SERVING, TRAINING = OURS[:2], OURS[2:]


def seconds(duration: str) -> int:
    found = re.fullmatch(r"(\d+)(s|m)", duration)
    assert found is not None
    return int(found[1]) * {"s": 1, "m": 60}[found[2]]


def devices(service: dict[str, Any]) -> Any:
    return service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")


@pytest.mark.slow
def test_it_is_what_the_compose_specification_allows() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*command, str(COMPOSE)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", services())
def test_a_container_may_do_little(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert [each.split(":")[0] for each in service["tmpfs"]] == ["/tmp"]  # noqa: S108 - of the container
    assert service["mem_limit"]
    assert service["pids_limit"] > 0
    assert service["logging"]["driver"] == "json-file"
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert not {"cap_add", "privileged", "network_mode", "pid", "ipc", "devices"} & service.keys()


def test_the_service_with_a_gpu_starts_by_itself_and_the_others_when_they_are_named() -> None:
    assert [name for name, service in services().items() if "profiles" not in service] == ["service"]
    assert {name: services()[name]["profiles"] for name in ("cpu", "train", "train-cpu", "prometheus")} == {
        "cpu": ["cpu"],
        "train": ["train"],
        "train-cpu": ["train"],
        "prometheus": ["monitoring"],
    }


@pytest.mark.parametrize(("with_gpu", "without"), [SERVING, TRAINING])
def test_with_and_without_a_gpu_are_the_same_but_for_that(with_gpu: str, without: str) -> None:
    first, second = services()[with_gpu], services()[without]
    (reserved,) = devices(first)
    assert (reserved["driver"], reserved["capabilities"]) == ("nvidia", ["gpu"])
    assert devices(second) is None
    own = {"deploy", "profiles"} | ({"image", "build", "environment"} if with_gpu == "service" else set())
    assert all(first[key] == second[key] for key in (first.keys() | second.keys()) - own)


def test_each_serves_with_its_provider_and_on_no_other() -> None:
    for name, provider in (("service", "cuda"), ("cpu", "cpu")):
        service = services()[name]
        assert service["build"]["args"] == {"PROVIDER": provider}
        assert service["image"] == f"tessera:{provider}"
        assert service["environment"]["TESSERA_PROVIDER"] == provider


@pytest.mark.parametrize("name", SERVING)
def test_the_models_are_there_to_be_read_alone(name: str) -> None:
    service = services()[name]
    assert service["volumes"] == ["./exported:/exported:ro"]
    assert service["environment"]["TESSERA_MODELS"] == "/exported"


@pytest.mark.parametrize("name", TRAINING)
def test_the_trainer_publishes_where_the_service_reads_and_tells_it(name: str) -> None:
    train, serve = services()[name], services()["service"]
    assert train["volumes"][:2] == ["./runs:/work/runs", "./exported:/work/exported"]
    (alias,) = serve["networks"]["default"]["aliases"]
    port = serve["environment"]["TESSERA_PORT"]
    assert train["environment"][URL_VARIABLE] == f"${{{URL_VARIABLE}-http://{alias}:{port}}}"
    assert (
        train["environment"][KEY_VARIABLE] == serve["environment"][KEY_VARIABLE] == f"${{{KEY_VARIABLE}:-}}"
    )


def test_keys_reach_the_service_whether_they_are_in_the_file_or_in_the_environment() -> None:
    for name in SERVING:
        given = services()[name]["environment"]
        assert all(given[key] == f"${{{key}:-}}" for key in map(variable, SECRETS))


def test_the_run_folder_is_in_a_fresh_checkout() -> None:
    # Else the engine would make it, and it would be root's.
    assert (ROOT / "runs" / ".gitkeep").is_file()


@pytest.mark.parametrize("name", SERVING)
def test_who_is_told_to_stop_may_finish(name: str) -> None:
    service = services()[name]
    drain = Settings.model_fields["drain_seconds"].default
    assert seconds(service["stop_grace_period"]) > drain + SLACK
    assert service["ports"] == [f"${{PUBLISH:-8000}}:{service['environment']['TESSERA_PORT']}"]


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_watches_is_reached_from_the_same_machine_alone(name: str) -> None:
    service = services()[name]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    mounted = [volume.split(":") for volume in service["volumes"] if volume.startswith("./")]
    assert mounted
    for source, _, mode in mounted:
        assert (ROOT / source).is_dir()
        assert mode == "ro"


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings(name: str) -> None:
    trainers = {URL_VARIABLE, KEY_VARIABLE, CACHE_VARIABLE}
    given = set(services()[name]["environment"])
    assert not unknown_variables(dict.fromkeys(given - trainers, ""))


def test_the_head_of_the_file_tells_what_may_be_set() -> None:
    text = COMPOSE.read_text()
    head = text.split("name: tessera")[0]
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    assert {"PUBLISH", "MEMORY", "RUN_AS"} <= used
    settings = {f"TESSERA_{name.upper()}" for name in Settings.model_fields}
    assert [name for name in sorted(used - settings) if not re.search(rf"\b{name}\b", head)] == []


def test_the_documents_name_what_there_is() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    commands = re.findall(r"docker compose ([^`\n#)]+)", text)
    assert len(commands) > 5
    for command in map(str.split, commands):
        profiles = {each for service in services().values() for each in service.get("profiles", [])}
        if command[0] == "--profile":
            assert command[1] in profiles
            command = command[2:]
        verb, *rest = command
        if verb == "version":
            continue
        words = [word for word in rest if not word.startswith("-")]
        named = {"up": words, "build": words, "run": set(words) & set(TRAINING), "kill": words[-1:]}[verb]
        assert set(named) <= services().keys()
        assert named or verb == "up"


def test_the_file_and_the_documents_tell_what_it_needs() -> None:
    # An env_file that may be missing came with this version; compose has no key for it.
    assert any("required" in each for service in services().values() for each in service.get("env_file", []))
    head = COMPOSE.read_text().split("name: tessera")[0]
    pages = [
        ROOT / "README.md",
        ROOT / "docs/deployment/docker.md",
        ROOT / "docs/operations/troubleshooting.md",
    ]
    for text in (head, *(page.read_text(encoding="utf-8") for page in pages)):
        flat = " ".join(text.replace("#", " ").replace("`", "").split())
        assert re.search(r"[Cc]ompose (plugin |is older than )?2\.24", flat)
        assert f"driver {OLDEST_DRIVER}" in flat


def test_the_head_of_the_file_tells_how_to_start_each() -> None:
    head = COMPOSE.read_text().split("name: tessera")[0]
    commands = re.findall(r"^# (docker compose .*?)(?:  |$)", head, re.MULTILINE)
    named = {word for command in commands for word in command.split()}
    assert set(services()) - named == {"service"}
    profiles = {profile for service in services().values() for profile in service.get("profiles", [])}
    given = {found for command in commands for found in re.findall(r"--profile (\S+)", command)}
    assert given <= profiles
