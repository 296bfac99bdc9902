"""Serve exported models over REST.

    python -m service                                  what is in ./exported, on http://127.0.0.1:8000
    python -m service --models DIR --port 9000
    TESSERA_PROVIDER=cuda python -m service            refuse to start without a GPU

A failed start is one line on stderr and exit code 1; a wrong flag or variable is exit code 2.
"""

import logging
import signal
import sys
from contextlib import ExitStack, suppress

from service.contract import __version__
from service.contract.cpu_count import available_cpus
from service.errors import ModelRefused, StartupError, TesseraError
from service.models.hub import local_folder
from service.models.hub.reference import is_reference
from service.models.reload import report
from service.runtime.providers import choose_provider

try:
    from service.cli import from_command_line, program
    from service.observability import logs
    from service.server.control_channel import ControlChannel, Started
    from service.server.sockets import listen, url
    from service.server.supervisor import Supervisor
    from service.settings import Settings
    from service.worker import serve, startup_error, work
except ModuleNotFoundError as error:
    # One of the extra `server`; a module of this package is no such one.
    if (error.name or "service").startswith("service"):
        raise
    detail = f"{error.name} is not installed; it comes with the extra 'server': pip install '.[server]'"
    sys.exit(f"tessera-serve: {detail}")

log = logging.getLogger("service")

# Each worker has the models in its memory.
MOST_WORKERS = 8


def main() -> int:
    """Run the service until a signal stops it; the exit code."""
    if hasattr(signal, "SIGHUP"):
        # By default it would end the process; once the models are loaded, it reloads them.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = from_command_line(sys.argv[1:])
    logs.configure(settings)
    try:
        code = _run(_with_counts(settings))
    except TesseraError as error:
        sys.stderr.write(f"{program()}: {startup_error(error, settings)}\n")
        return 1
    except KeyboardInterrupt:
        # uvicorn raises the signal again after its shutdown.
        code = 130
    log.info("stopped, with exit code %d", code)
    return code


def _run(settings: Settings) -> int:
    # Before the models, which take seconds to load: a wrong port is an error at once.
    listeners = [listen(settings.host, settings.port)]
    if isinstance(settings.metrics, int):
        listeners.append(listen(settings.host, settings.metrics, "--metrics"))
        settings = settings.model_copy(update={"metrics": listeners[1].getsockname()[1]})
    for source in filter(is_reference, settings.models):
        # Here, so that an error is one line, and several workers find the files in the cache.
        with suppress(ModelRefused):
            log.info("%s is in %s", source, local_folder(source))

    def ready(started: Started) -> None:
        log.info("models run on %s", started.provider)
        report(started.outcome, settings.models, settings.default_model)
        log.info("listening on %s; documentation at %s/docs", *[url(listeners[0])] * 2)
        for each in listeners[1:]:
            log.info("metrics at %s/metrics", url(each))

    if settings.workers > 1:
        return Supervisor(work, settings, listeners, ready).run()
    with ExitStack() as stack:
        for each in listeners:
            stack.enter_context(each)
        # A failed worker exits with 1: without a supervisor nothing here replaces it.
        return 0 if serve(settings, listeners, ControlChannel(), ready) else 1


def _with_counts(settings: Settings) -> Settings:
    """The settings with the numbers of workers and threads that 0 means. Raises StartupError."""
    cpus = available_cpus()
    if settings.threads > cpus:
        # Each graph has its own threads, and would take seconds to start them.
        detail = f"at most {cpus} are allowed: the CPUs that this process may use"
        raise StartupError(f"--threads is {settings.threads}; {detail}")
    workers = settings.workers
    if not workers and choose_provider(settings.provider).name == "cuda":
        # One process fills its batches from all requests; several would each hold the models on the GPU.
        workers = 1
    workers = workers or min(MOST_WORKERS, cpus // max(1, settings.threads))
    threads = settings.threads or max(1, cpus // workers)
    each = " each" if workers > 1 else ""
    counts = f"{_counted(workers, 'worker')} with {_counted(threads, 'thread')}{each}"
    log.info("tessera %s: %s, on %s", __version__, counts, _counted(cpus, "CPU"))
    return settings.model_copy(update={"workers": workers, "threads": threads})


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
