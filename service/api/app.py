"""The app: from settings to an ASGI app with its models loaded."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api import problems
from service.api.dependencies import Context
from service.api.diffusers import routes as diffusers
from service.api.middleware.access_log import REQUEST_ID, AccessLog
from service.api.middleware.auth import METRICS, Authentication, MetricsPort
from service.api.middleware.body_limits import BodyLimits, Budget
from service.api.middleware.fast_path import FastPath
from service.api.middleware.head_requests import HeadRequests
from service.api.middleware.root_path import RootPath
from service.api.openapi.document import Description
from service.api.routes import codes, health, models, pages, sample, score
from service.api.v2 import inference
from service.api.v2.wire import LENGTH
from service.contract import __version__
from service.execution import execution
from service.models.registry import Registry
from service.observability.metrics import INFLIGHT_BYTES, gauge
from service.observability.tracing import Traces, to_collector
from service.page.files import PageFiles
from service.server.control_channel import ControlChannel
from service.settings import Settings

# Every router. The paths in the metrics, the fast path and the OpenAPI document follow from their routes.
ROUTERS = (
    codes.router,
    sample.router,
    score.router,
    models.router,
    inference.router,
    diffusers.router,
    health.router,
)

# Response headers that the scripts of a web page may read (CORS), beside those that they always may.
_MODEL_HEADERS = ("X-Tessera-Model", "X-Tessera-Version", "X-Tessera-Seed", "X-Tessera-Size")
EXPOSED = (*_MODEL_HEADERS, REQUEST_ID, LENGTH, "Retry-After", "WWW-Authenticate", "Content-Disposition")

DESCRIPTION = """
Images to codes, codes to images, and new images, from models of the VAE family.

The endpoints below `/v2` are the Open Inference Protocol, for clients of KServe and Triton, and those below
`/diffusers` are a remote VAE, for the client of diffusers.

A response has the media type that `Accept` asks for. An error of an endpoint is `application/problem+json`
(RFC 9457); it says what was given and what is allowed.
"""


@dataclass(frozen=True)
class App:
    """An ASGI app: ``asgi`` is the middleware around ``fastapi``, or, with traces, the other way round."""

    fastapi: FastAPI
    context: Context
    asgi: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call ``asgi``; the server calls it directly."""
        await self.asgi(scope, receive, send)


def create_app(settings: Settings, control: ControlChannel | None = None) -> App:
    """Choose the provider, load the models, and make the app. A bundle that is refused does not stop it.

    ``control`` leads to the other workers; without it there are none.

    Raises StartupError if the provider of the settings does not work or packages for traces are missing,
    ModelsUnreadable if the models folder cannot be listed.
    """
    provider, batching = execution(settings)
    registry = Registry(settings.models, provider, batching, settings.default_model)
    # Without the report of a reload: one process writes it for all workers.
    registry.prepare()
    registry.commit()

    traces = None if settings.traces is None else Traces(to_collector(settings.traces))
    context = Context(settings, registry, control or ControlChannel(), traces)
    fastapi = _fastapi(context, traces)
    layers = _layers(context)
    if traces is None:
        # What FastAPI does before its middleware takes 2 % of the time of a small request.
        outermost: ASGIApp = fastapi
        for layer in layers:
            outermost = layer(outermost)
        return App(fastapi, context, outermost)
    for layer in layers:
        # Inside of the span that FastAPI makes for a request.
        fastapi.add_middleware(layer)
    return App(fastapi, context, fastapi)


def routes() -> list[APIRoute]:
    """The routes of all routers."""
    return [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]


def _fastapi(context: Context, traces: Traces | None) -> FastAPI:
    app = FastAPIOffline(
        title="Tessera",
        version=__version__,
        summary="Image codes over REST.",
        description=DESCRIPTION,
        # To check for telemetry at each request would take as long as to decode a small image.
        telemetry={
            "tracing": traces is not None,
            "tracer_provider": traces and traces.provider,
            "metrics": False,
            "logs": False,
        },
        generate_unique_id_function=_operation_id,
        openapi_url="",  # it takes 10 ms of the event loop each time; ours is in service.api.routes.pages
        docs_url=None,  # its addresses are absolute; ours are there too
        redoc_url=None,  # its page loads an image from another host
        redirect_slashes=False,  # to an absolute address, which a proxy may not have
    )
    app.state.context = context
    app.state.page = PageFiles(context.settings.root_path)
    problems.install(app)
    for router in (*ROUTERS, pages.router):
        app.include_router(router)
    # It takes tens of milliseconds, in which the first request for it would block the event loop.
    app.openapi = Description(app, context.registry)  # type: ignore[method-assign]  # FastAPI's own way
    app.openapi()
    return app


def _operation_id(route: APIRoute) -> str:
    """The name in a generated client: ``encode``, where FastAPI has ``encode_encode_post``."""
    version = "_version" if "{version}" in route.path else ""
    return f"v2_{route.name}{version}" if route.path.startswith("/v2") else route.name


def _layers(context: Context) -> list[Callable[[ASGIApp], ASGIApp]]:
    """The middleware, the innermost first."""
    settings = context.settings
    budget = Budget(settings.max_inflight_bytes)
    context.metrics.add_source(lambda: [gauge(INFLIGHT_BYTES, [({}, budget.reserved)])])
    paths = [route.path for route in routes() if not route.param_convertors]
    layers: list[Callable[[ASGIApp], ASGIApp]] = [
        HeadRequests,
        partial(FastPath, routes=routes(), context=context),
        partial(BodyLimits, settings=settings, budget=budget),
    ]
    if settings.api_keys or settings.reload_key:
        open_paths = () if settings.metrics == "key" else (METRICS,)
        layers.append(
            partial(
                Authentication, keys=settings.api_keys, reload_key=settings.reload_key, open_paths=open_paths
            )
        )
    if isinstance(settings.metrics, int):
        layers.append(partial(MetricsPort, port=settings.metrics))
    if settings.cors_origins:
        # Outside of the authentication: a preflight request has no key.
        layers.append(
            partial(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("*",),
                expose_headers=EXPOSED,
            )
        )
    is_logged = settings.log_calls == "all" and settings.log_level in ("info", "debug")
    layers.append(
        partial(
            AccessLog,
            metrics=context.metrics,
            paths=paths,
            form=settings.log_format if is_logged else None,
            probes=settings.log_level == "debug",
            worker=context.control.index,
            trace_id=context.trace_id,
        )
    )
    return [*layers, partial(RootPath, root_path=settings.root_path)] if settings.root_path else layers
