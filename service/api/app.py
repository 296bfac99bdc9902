"""The app: settings in, an ASGI app with everything loaded out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from service import __version__
from service.api import problems
from service.api.dependencies import Context
from service.api.middleware.access_log import REQUEST_ID, Observed
from service.api.middleware.auth import METRICS, Keys, MetricsPort
from service.api.middleware.body_limits import Budget, Intake
from service.api.middleware.fast_path import Direct
from service.api.middleware.head_requests import HeadRequests
from service.api.openapi import describe
from service.api.routes import codes, health, models, sample, score
from service.api.v2 import inference
from service.api.v2.wire import LENGTH
from service.models.model import Batching
from service.models.registry import Registry
from service.observability.metrics import INFLIGHT_BYTES, gauge
from service.observability.tracing import Traces, to_collector
from service.runtime.providers import choose_provider
from service.server.control_channel import Crew
from service.settings import Settings

ROUTERS = (codes.router, sample.router, score.router, models.router, inference.router, health.router)

# Headers of answers that the scripts of a web page may read, beside those that they always may.
_OF_A_MODEL = ("X-Tessera-Model", "X-Tessera-Version", "X-Tessera-Seed")
EXPOSED = (*_OF_A_MODEL, REQUEST_ID, LENGTH, "Retry-After", "WWW-Authenticate", "Content-Disposition")

# The routers of what runs a model.
DIRECT = (codes.router, sample.router, score.router)

DESCRIPTION = """
Images to codes, codes to images, and new images, from models of the VAE family.

The calls below `/v2` are the Open Inference Protocol, for clients of KServe and Triton.

Answers come in the form that `Accept` asks for. An error of the service is `application/problem+json`
(RFC 9457) and says what was given and what is allowed.
"""


@dataclass(frozen=True)
class App:
    """An ASGI app: the ``layers`` that every call meets, the last of which is or leads to ``fastapi``."""

    fastapi: FastAPI
    context: Context
    layers: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        # As Starlette does, for endpoints that are called before it is.
        scope["app"] = self.fastapi
        await self.layers(scope, receive, send)


def create_app(settings: Settings, crew: Crew | None = None) -> App:
    """Choose the provider, load the models, and make the app. A folder that is refused stops nothing.

    ``crew`` are the other workers at the same address; without it there are none.

    Raises StartupError if the provider that was asked for does not work or packages for traces are missing,
    ModelsUnreadable if the models folder cannot be listed.
    """
    provider = choose_provider(
        settings.provider, settings.threads, tf32=settings.tf32, captures=settings.cuda_graphs
    )
    batching = Batching.on(provider, settings.batch_size, settings.batch_pixels)
    registry = Registry(settings.models, provider, batching, settings.default_model)
    registry.reload()

    traces = None if settings.traces is None else Traces(to_collector(settings.traces))
    context = Context(settings, registry, crew or Crew(), traces)
    fastapi = _fastapi(context, traces)
    layers = _layers(context)
    if traces is None:
        # What FastAPI does before it comes to its middleware costs a small call a fiftieth.
        outermost: ASGIApp = fastapi
        for layer in layers:
            outermost = layer(outermost)
        return App(fastapi, context, outermost)
    for layer in layers:
        # Inside of the span that FastAPI makes of a call.
        fastapi.add_middleware(layer)
    return App(fastapi, context, fastapi)


def _fastapi(context: Context, traces: Traces | None) -> FastAPI:
    app = FastAPIOffline(
        title="Tessera",
        version=__version__,
        summary="Image codes over REST.",
        description=DESCRIPTION,
        # To ask whether there is anything to be traced would cost as much as to read a small picture.
        telemetry={
            "tracing": traces is not None,
            "tracer_provider": traces and traces.provider,
            "metrics": False,
            "logs": False,
        },
        generate_unique_id_function=_operation_id,
        redoc_url=None,  # its page loads a picture from another host
        swagger_ui_parameters={"validatorUrl": None},  # or the page would tell another host of us
    )
    app.state.context = context
    app.openapi = partial(describe, app)  # type: ignore[method-assign]  # FastAPI's own way
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    async def page() -> RedirectResponse:
        return RedirectResponse("docs")

    # It takes tens of milliseconds: whoever asked for it first would have the others wait.
    app.openapi()
    return app


def _operation_id(route: APIRoute) -> str:
    """What a generated client calls a call: ``encode``, where FastAPI says ``encode_encode_post``."""
    of_version = "_version" if "{version}" in route.path else ""
    return f"v2_{route.name}{of_version}" if route.path.startswith("/v2") else route.name


def _layers(context: Context) -> list[Callable[[ASGIApp], ASGIApp]]:
    """What every call meets before it comes to a route, the last first."""
    settings = context.settings
    routes = [route for router in ROUTERS for route in router.routes]
    budget = Budget(settings.max_inflight_bytes)
    context.metrics.watch(lambda: [gauge(INFLIGHT_BYTES, [({}, budget.held)])])
    paths = [route.path for route in routes if isinstance(route, APIRoute) and not route.param_convertors]
    direct = [route for router in DIRECT for route in router.routes]
    layers: list[Callable[[ASGIApp], ASGIApp]] = [
        HeadRequests,
        partial(Direct, routes=direct, context=context),
        partial(Intake, settings=settings, budget=budget),
    ]
    if settings.api_keys or settings.reload_key:
        is_open = () if settings.metrics == "key" else (METRICS,)
        layers.append(partial(Keys, keys=settings.api_keys, reload_key=settings.reload_key, is_open=is_open))
    if isinstance(settings.metrics, int):
        layers.append(partial(MetricsPort, port=settings.metrics))
    if settings.cors_origins:
        # Outside of the keys: what a browser asks first (preflight) has none.
        layers.append(
            partial(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("*",),
                expose_headers=EXPOSED,
            )
        )
    every = settings.log_calls == "all"
    return [*layers, partial(Observed, metrics=context.metrics, paths=paths, every=every)]
