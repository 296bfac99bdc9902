"""Asking a running service to load what was published: ``--reload http://HOST:PORT``.

The service's key for a reload is taken from ``TESSERA_RELOAD_KEY``; a flag could be read by everyone on the
machine.
"""

import http.client
import json
import os
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import click

from trainer.errors import ReloadError

URL_VARIABLE = "TESSERA_RELOAD_URL"
KEY_VARIABLE = "TESSERA_RELOAD_KEY"

SCHEMES = ("http", "https")

PATH = "/models/reload"
# Before it responds, every worker loads the model and runs each of its operations once.
TIMEOUT_SECONDS = 600.0


class ServiceAddress(click.ParamType[str]):
    """``http://HOST:PORT``, or the same with https or a path before the service's own."""

    name = "URL"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check an address: before hours of training, not after."""
        try:
            parts = urlsplit(value)
            good = parts.scheme in SCHEMES and parts.hostname and parts.port != 0
        except ValueError:
            good = False
        if not good:
            self.fail(f"{value!r} is no address of a service, such as http://127.0.0.1:8000", param, ctx)
        return str(value).rstrip("/")


def have_loaded(address: str, name: str) -> str:
    """Have the service at an address load the published model of this name; a line about the result.

    Raises ReloadError if the service cannot be reached, refuses the model or does not find it.
    """
    try:
        status, response = _post(address)
    except (OSError, http.client.HTTPException) as error:
        raise _failed(address, f"cannot be asked to load it: {error}") from error
    if status != HTTPStatus.OK or "loaded" not in response:
        raise _failed(address, _why(status, response))
    refused = {refusal["name"]: refusal["reason"] for refusal in response["refused"]}
    if name in refused:
        raise _failed(address, f"refuses it: {refused[name]}")
    served = [*response["loaded"], *response["kept"]]
    if name not in served:
        raise _failed(address, f"reads another folder: it serves {', '.join(served) or 'no model'}")
    result = {**response, "refused": refused}
    return f"{address}: " + "; ".join(f"{verb} {', '.join(names)}" for verb, names in result.items() if names)


def _post(address: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON object of the response. Redirects are not followed: they would leak the key."""
    parts = urlsplit(address)
    key = os.environ.get(KEY_VARIABLE, "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection = _CONNECTIONS[parts.scheme](parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", parts.path + PATH, headers=headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    return response.status, document if isinstance(document, dict) else {}


def _why(status: int, problem: Mapping[str, Any]) -> str:
    if status == HTTPStatus.UNAUTHORIZED or problem.get("type") == "urn:tessera:insufficient-key":
        return f"wants its key for it: set {KEY_VARIABLE} to that"
    if status == HTTPStatus.FORBIDDEN:
        return (
            f"loads models only for its own machine until it has a key: set {KEY_VARIABLE} there and here, "
            "or send it SIGHUP (docker compose kill -s HUP service)"
        )
    return f"answers {status}: {problem.get('detail', 'it seems to be no service of models')}"


def _failed(address: str, why: str) -> ReloadError:
    return ReloadError(f"the model is published, but {address} {why}")


_CONNECTIONS = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
