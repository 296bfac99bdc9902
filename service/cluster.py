"""The service on Ray Serve: replicas on one machine or many, behind the HTTP proxy of Ray.

    serve run service.cluster:app
    serve run docker/kubernetes/ray/serve.yaml

A replica is the app of ``python -m service``, with its models and its batchers. What the supervisor does for
workers, Ray does for replicas: it starts, checks, replaces and stops them. The settings are the environment
variables of each replica. Importing raises ModuleNotFoundError without the extra ``cluster``.
"""

import logging
import os
from collections.abc import Mapping
from typing import Any

import click
from pydantic import ValidationError

from service.errors import Problem, ReloadFailed, StartupError, TesseraError

# Ray reads it when it is imported. Without it, Ray reports usage statistics to its makers.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
try:
    import ray
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.config import DeploymentActorConfig
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.api.app import create_app
    from service.api.middleware.access_log import REQUEST_ID
    from service.cli import complaint, unknown_variables
    from service.models.reload import Reload, disagreement, report
    from service.observability import logs
    from service.server.control_channel import ControlChannel
    from service.settings import Settings, variable
    from service.worker import startup_error
except ModuleNotFoundError as error:
    missing = f"service.cluster: {error.name} is not installed; it comes with the extra"
    raise ModuleNotFoundError(f"{missing}: pip install '.[cluster]'", name=error.name) from error

log = logging.getLogger(__name__)

# The name of the deployment, for serve.yaml.
NAME = "Tessera"
RELOADER = "reloader"
# Requests that Ray gives to a replica at a time, and those for which it waits before it refuses more. Queues,
# batches and refusals are for the replica, which counts rows and bytes: the first is more than it takes.
MAX_ONGOING, MAX_QUEUED = 4096, 4096
_REQUEST_ID = REQUEST_ID.lower().encode()
_BEHIND_HAPROXY = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
# To compare the models of all replicas.
_COMPARE_SECONDS = 5.0


def app(_arguments: Mapping[str, Any]) -> Any:
    """The application: what ``serve run`` and ``import_path`` name.

    Raises ClickException, which ``serve run`` shows as one line, for a variable that is not allowed.
    """
    try:
        return deployment().bind()
    except StartupError as error:
        raise click.ClickException(str(error)) from error


def deployment() -> Any:
    """The deployment; ``serve.yaml`` may change each of its options. Raises StartupError."""
    settings = settings_of_environment()
    return serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        ray_actor_options={"num_cpus": 1, "num_gpus": int(settings.provider == "cuda")},
        deployment_actors=[
            DeploymentActorConfig(
                name=RELOADER,
                actor_class=ray.remote(Reloader),
                actor_options={"num_cpus": 0, "max_concurrency": 1},
            )
        ],
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        backpressure_config={"status_code": 429, "retry_after_s": 1},
        graceful_shutdown_timeout_s=settings.drain_seconds,
        # The service has an access log of its own.
        logging_config={"enable_access_log": False},
    )


def settings_of_environment() -> Settings:
    """The settings of the environment variables. Raises StartupError for one that is not allowed."""
    try:
        problems, settings = unknown_variables(os.environ), Settings()
    except ValidationError as error:
        raise StartupError("; ".join(complaint(each, {}) for each in error.errors())) from error
    if isinstance(settings.metrics, int):
        problems.append(f"{variable('metrics')}: Ray has one port for all, so it is key or open, not a port")
    if problems:
        raise StartupError("; ".join(problems))
    return settings


class Replica:
    """A replica. Ray calls its methods by their names."""

    def __init__(self) -> None:
        settings = settings_of_environment()
        logs.configure(settings)
        threads = settings.threads or int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0))
        settings = settings.model_copy(update={"workers": 1, "threads": max(1, threads)})
        self._channel = ReplicaChannel(settings)
        try:
            self._app = create_app(settings, self._channel)
        except TesseraError as error:
            raise StartupError(startup_error(error, settings)) from error
        registry = self._app.context.registry
        self._channel.handle("versions", lambda: registry.outcome.good, on_loop=True)
        log.info("models run on %s: %s", registry.provider.name, registry.provider.reason)
        report(registry.outcome, settings.models, settings.default_model)
        self._checks = 0

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The app. Its responses have no request id: the proxy adds it, and has given it to the app."""

        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_without_id(message: Message) -> None:
                if message["type"] == "http.response.start":
                    headers = [each for each in message["headers"] if each[0] != _REQUEST_ID]
                    message = {**message, "headers": headers}
                elif isinstance(body := message.get("body"), memoryview):
                    # Ray pickles messages, and a memoryview cannot be pickled.
                    message = {**message, "body": bytes(body)}
                await send(message)

            if _BEHIND_HAPROXY:
                # HAProxy hides the client's address, and a client of another machine must not count as local.
                scope = {**scope, "client": None}
            await self._app.asgi(scope, receive, send_without_id)

        return asgi

    async def check_health(self) -> None:
        """Raise the reason if ``/readyz`` is not 200: Ray then replaces the replica."""
        await self._app.context.check_ready()
        self._checks += 1
        if self._checks == 2:
            # The first check comes before any broadcast: the replica may have missed a reload.
            await self._channel.agree()

    async def query(self, topic: str) -> tuple[int | str, Any]:
        """Reply to a broadcast: the id of the replica, and its result or the exception that it raised."""
        return await self._channel.reply(topic)


class ReplicaChannel(ControlChannel):
    """The control channel of a replica: broadcasts to all replicas through Ray."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        context = serve.get_replica_context()
        self.index = context.replica_tag
        self._settings, self._deployment = settings, (context.deployment, context.app_name)

    async def reply(self, topic: str) -> tuple[int | str, Any]:
        """The id of this replica, and its own result."""
        (result,) = await super().broadcast(topic)
        return self.index, result

    async def broadcast(self, topic: str, seconds: float | None = None) -> list[Any]:
        """The result of every replica; an exception is the result of one that failed.

        Raises TimeoutError if one does not reply within ``seconds``.
        """
        if topic == "reload":
            return [await self._reload()]
        handle = serve.get_deployment_handle(*self._deployment)
        replies = handle.broadcast("query", topic).results_async(timeout_s=seconds, return_exceptions=True)
        return [each if isinstance(each, Exception) else each[1] for each in await replies]

    async def agree(self) -> None:
        """Reload the models of all replicas if they do not serve the same versions."""
        try:
            results = await self.broadcast("versions", _COMPARE_SECONDS)
        except (TimeoutError, RayError) as error:
            log.warning("the versions of the other replicas are not known: %s", error)
            return
        versions = [each for each in results if not isinstance(each, Exception)]
        if any(each != versions[0] for each in versions):
            outcome = await self._reload()
            if not isinstance(outcome, Reload):
                log.error("the models were not reloaded: %s", outcome)

    async def _reload(self) -> Any:
        try:
            outcome = await serve.get_deployment_actor(RELOADER).reload.remote(*self._deployment)
        except (RayError, ValueError) as error:
            log.exception("a reload failed")
            return ReloadFailed(f"the reload was cut off ({type(error).__name__}); try again in a second")
        if isinstance(outcome, Reload):
            report(outcome, self._settings.models, self._settings.default_model)
        return outcome


class Reloader:
    """An actor that reloads the models of all replicas: one actor, and one reload at a time."""

    async def reload(self, *deployment: str) -> Reload | Problem:
        """All replicas prepare, and then all swap or none."""
        handle = serve.get_deployment_handle(*deployment)

        async def results(topic: str) -> dict[Any, Any]:
            replies = await handle.broadcast("query", topic).results_async(return_exceptions=True)
            # A replica that ended has no result; its successor loads what is there then.
            return dict(each for each in replies if not isinstance(each, Exception))

        prepared = await results("prepare")
        problem = disagreement(prepared)
        await results("abandon" if problem else "commit")
        return problem or next(iter(prepared.values()))
