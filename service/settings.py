"""The settings of the service: their names, defaults, limits and meanings.

A setting ``max_pixels`` is the flag ``--max-pixels`` and the environment variable ``TESSERA_MAX_PIXELS``.
A flag wins over the environment, the environment over the default; secrets have no flag. The help of
``python -m service`` (``service.cli``) and the reference page of the settings are made from the fields below.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.contract.measures import Precision
from service.models.hub.reference import Reference, is_reference

PREFIX = "TESSERA_"

# A key is one word in a header.
_KEY = re.compile(r"[!-~]{1,512}")
# A key that perhaps has a name. Bearer keys have no colon (RFC 6750).
_NAMED_KEY = re.compile(r"([A-Za-z0-9._-]{1,64}:)?[!-9;-~]{1,512}")
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#,]+")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


def _metrics(given: object) -> object:
    if given in ("open", "key"):
        return given
    text = str(given).strip()
    if not (text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError("Input should be 'key', 'open' or a port from 0 to 65535")
    return int(text)


def _listed(given: object) -> object:
    if isinstance(given, Path):
        return (str(given),)
    return given.split(",") if isinstance(given, str) else given


def _source(source: str) -> str:
    if not source:
        raise ValueError("a source of models is a folder or hf://OWNER/NAME@REVISION")
    if is_reference(source):
        Reference.parse(source)
    return source


def _stripped(given: object) -> object:
    # A value from a file ends with a line break.
    return given.strip() if isinstance(given, str) else given


def _key(key: SecretStr) -> SecretStr:
    if not _KEY.fullmatch(key.get_secret_value()):
        # Without the key: the message ends up in logs.
        raise ValueError(
            "a key is empty, has over 512 characters or one that a header cannot carry; allowed are visible "
            "ASCII characters without spaces"
        )
    return key


def _named_key(key: SecretStr) -> SecretStr:
    if not _NAMED_KEY.fullmatch(key.get_secret_value()):
        raise ValueError(
            "a key with a colon is NAME:KEY, with a name of 1 to 64 letters, digits, dots, dashes and "
            "underscores, and a key without a colon"
        )
    return key


def _origin(origin: str) -> str:
    if not _ORIGIN.fullmatch(origin):
        detail = "an origin is a scheme, a host and perhaps a port, such as https://app.example, or * for all"
        raise ValueError(detail)
    return origin


def _root_path(path: str) -> str:
    path = path.rstrip("/")
    if not _ROOT_PATH.fullmatch(path):
        raise ValueError("a root path is names of letters, digits and ._~-, each after a slash, such as /img")
    return path


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Source = Annotated[str, BeforeValidator(_stripped), AfterValidator(_source)]
Key = Annotated[SecretStr, BeforeValidator(_stripped), AfterValidator(_key)]
NamedKey = Annotated[Key, AfterValidator(_named_key)]
Origin = Annotated[str, BeforeValidator(_stripped), AfterValidator(_origin)]


class Settings(BaseSettings):
    """The settings. Raises ``pydantic.ValidationError`` for a value that is not allowed."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, frozen=True, use_attribute_docstrings=True
    )

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every IPv4 interface."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    models: Annotated[tuple[Source, ...], NoDecode, BeforeValidator(_listed), Field(min_length=1)] = (
        "exported",
    )
    """Where the models are, separated by commas: a folder of model bundles, one folder in it for each, or
    `hf://owner/name@revision` for one of the Hugging Face hub, which needs the extra `hub`."""
    default_model: str | None = None
    """Model for requests that name none. Unset: the only one that is loaded."""
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the graphs run. auto: CUDA if it works, else the CPU; cuda: CUDA or no start."""
    precision: Precision = "32"
    """Precision of the graphs: 32, 16 (float16) or bf16. A model whose bundle has no graphs in it, or where
    they do not run, runs in 32; `/readyz` and `/models` say so."""
    tf32: bool = False
    """On a GPU, multiply with 10 bits of mantissa: faster, and it may change a code at a tie."""
    cuda_graphs: bool = True
    """On a GPU, record the runs of a graph for each batch size, and replay them."""
    gpu_graph_bytes: NonNegativeInt = 0
    """On a GPU, the most memory of it that one graph may take for its weights and its runs, in bytes. A batch
    that needs more fails; if it is one that runs when a model is loaded, the model is refused. 0 for no
    limit."""
    cpu_rows: int = Field(default=0, ge=-1)
    """On a GPU, the most rows of a batch that runs on the CPU instead, for a graph whose runs cannot be
    recorded, such as a chain. -1 for as many as are quicker there, measured when a model is loaded; 0 for
    none. The CPU rounds otherwise than a GPU."""
    workers: int = Field(default=0, ge=0, le=256)
    """Worker processes, each with the models in its memory; 0 for one on a GPU, else one for each available
    CPU, up to 8."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads for one operation; the service allows as many as there are available CPUs. 0 for the
    available CPUs, divided by the workers."""
    concurrency: PositiveInt = 1
    """Concurrency limit: batches that a worker runs at the same time."""
    samplers: PositiveInt = 1
    """Concurrency limit of samplers, whose batches run beside the others."""
    batch_size: NonNegativeInt = 0
    """Largest batch, in rows; 0 for 128 on the CPU and 512 on a GPU."""
    batch_pixels: NonNegativeInt = 0
    """Largest batch, in pixels of its images, which limits the memory; one row is always allowed. 0 for 2^15
    on the CPU and 2^20 on a GPU."""
    tile_pixels: NonNegativeInt = 0
    """Largest image, in pixels, that runs in one piece; a larger one runs in tiles of at most so many. 0 for
    2^19 on the CPU and 2^20 on a GPU."""
    max_body_bytes: PositiveInt = 2**26
    """Largest body of a request, in bytes."""
    max_json_bytes: PositiveInt = 2**24
    """Largest JSON in a body, in bytes: while it is parsed, a worker does nothing else. Files, npy and binary
    tensors do not count."""
    max_json_values: PositiveInt = 2**20
    """Values in the JSON of a body, for the same reason: a number or a string counts as one, a list, an
    object or a name as eight."""
    max_head_bytes: int = Field(default=2**16, ge=2**10)
    """Largest headers of a request, in bytes, with its first line; larger ones are a 400, and so are larger
    trailers."""
    max_inflight_bytes: int = Field(default=0, ge=0, validate_default=True)
    """Bytes of bodies that a worker holds at the same time, beyond the first 64 KiB of each; more are refused
    with 503. 0 for a quarter more than max_body_bytes."""
    max_pixels: PositiveInt = 2**24
    """Largest image, in pixels; checked before any pixel is decoded."""
    max_decoded_pixels: int = Field(default=2**24, ge=2**16)
    """Largest image that is decoded at once, in pixels. With a higher max_pixels, larger ones are read row by
    row: one PNG or JPEG in a request, with `resize=false`. That needs the extra `large`."""
    max_images: PositiveInt = 1024
    """Images, rows of codes or samples in one request."""
    max_total_pixels: PositiveInt = 2**26
    """Pixels of all images of a request, or of its response, together."""
    max_queued_rows: PositiveInt = 4096
    """Longest queue of one operation of a model, in rows, in each worker; more are refused with 429. A
    request counts as one batch at most."""
    max_queued_bytes: PositiveInt = 2**28
    """Bytes of the images and codes of all open requests, and as many of the results of those that run in
    several batches; more are refused with 429, and results of one request with 413. Each worker has this
    limit three times: for samplers, for large images and for all others."""
    max_queue_seconds: Seconds = 30
    """Longest time of a request in the queue, in seconds; then it is a 504."""
    max_run_seconds: Seconds = 120
    """Longest run of one batch, in seconds; a worker with a longer one is not live."""
    max_steps: PositiveInt = 10_000
    """Steps of a sampler in one request, if its model allows as many."""
    header_seconds: Seconds = 10
    """Timeout to receive the headers of a request, in seconds; then the connection closes."""
    body_seconds: Seconds = 60
    """Timeout to receive the body of a request, in seconds; then it is a 408."""
    body_idle_seconds: Seconds = 15
    """Timeout without a byte of the body, in seconds; then the request is a 408."""
    write_seconds: Seconds = 60
    """Timeout for a client to read a response, in seconds; then the connection is reset."""
    worker_timeout: Seconds = 8
    """Timeout for the event loop of one of several workers to reply to its supervisor, in seconds; then the
    worker is killed and replaced."""
    drain_seconds: Seconds = 30
    """Longest graceful shutdown, in seconds: the time to finish requests in progress after SIGTERM."""
    api_keys: Annotated[tuple[NamedKey, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Keys, separated by commas. With any, every request needs one, as `Authorization: Bearer KEY`, except
    for the probes (`/livez`, `/readyz`, `/v2/health/...`) and the documentation. With `NAME:KEY` the access
    log names the key so; a key without a name is `key-1` and so on, by its place."""
    reload_key: Key | None = None
    """Key that `/models/reload` needs, then from any machine. Unset: only clients on the same machine may
    reload, not through a proxy, and with one of the other keys if there are any."""
    metrics: Annotated[Literal["key", "open"] | int, BeforeValidator(_metrics)] = "key"
    """Access to `/metrics`. key: clients with a key, if there are keys; open: all clients; a port: all
    clients of that port, which serves nothing else, and none of `--port`; 0 picks a free one."""
    cors_origins: Annotated[tuple[Origin, ...], NoDecode, BeforeValidator(_listed)] = ()
    """Origins of web pages whose scripts may make requests (CORS), such as `https://app.example`, separated
    by commas, or `*` for all. Unset: none."""
    root_path: Annotated[str, BeforeValidator(_stripped), AfterValidator(_root_path)] = ""
    """Path below which a proxy publishes the service, such as `/img`. Needed if the proxy does not remove it
    from requests, and for the `instance` of errors. Unset: the root."""
    traces: str | None = None
    """OTLP/HTTP collector of OpenTelemetry traces, such as `http://localhost:4318`; needs the extra `traces`.
    Unset: none."""
    log_calls: Literal["none", "all"] = "all"
    """Access log: all for a line for each request, none for no lines. It is of the level info. Probes and
    scrapes with status 200 are of the level debug."""
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """Least severe messages that are logged."""
    log_format: Literal["text", "json"] = "text"
    """Text, or one JSON object per line."""

    @field_validator("max_inflight_bytes")
    @classmethod
    def _room_for_one(cls, given: int, info: ValidationInfo) -> int:
        largest: int = info.data.get("max_body_bytes", 0)
        if not given:
            return largest + largest // 4
        if given < largest:
            raise ValueError(f"must be at least --max-body-bytes ({largest})")
        return given


# All users of a machine can read flags.
SECRETS = frozenset({"api_keys", "reload_key"})


def flag(name: str) -> str | None:
    """The command-line flag of a setting, if it has one."""
    return None if name in SECRETS else "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return PREFIX + name.upper()


def meaning(field: FieldInfo) -> str:
    """The meaning of a setting, on one line."""
    return " ".join((field.description or "").split())


def shown_default(field: FieldInfo) -> str:
    """A default as help shows it; empty if the setting is unset."""
    if isinstance(field.default, bool):
        return str(field.default).lower()
    if isinstance(field.default, tuple):
        return ",".join(field.default)
    return "" if field.default is None else str(field.default)
