"""Measure Tessera against its peers.

    python -m tests.benchmarks training            images/s of the training loop, in turns; about 10 minutes
    python -m tests.benchmarks codebooks           the quantizer against vector-quantize-pytorch; an hour

need the peers, so the environment that `make bench` makes, build/bench, and

    python -m tests.benchmarks serving             the service and its peers under load; an hour
    python -m tests.benchmarks overload            the service at four times what it can; two minutes

need `wrk`, the first also build/peers. The others need neither:

    python -m tests.benchmarks soak                all operations of all models at once; 10 minutes
    python -m tests.benchmarks fuzz                requests of all kinds, mostly broken; 10 minutes
    python -m tests.benchmarks hostile             all that may be done to a service, row by row; 6 minutes
    python -m tests.benchmarks decoding            pictures of all kinds, mostly broken, both ways; a minute

    python -m tests.benchmarks gpu --out DIR       everything on a GPU; eight minutes, --rehearse on the CPU
    python -m tests.benchmarks sizes               seconds and memory of pictures by their size; 5 minutes
    python -m tests.benchmarks mixture             small requests beside large pictures; 3 minutes

    python -m tests.benchmarks remote-vae EXPORTED         the client of diffusers against the graphs alone
    python -m tests.benchmarks client              the library's client beside bare HTTP; two minutes
    python -m tests.benchmarks access-log          what a line of the access log costs; half a minute

    python -m tests.benchmarks bulk                bulk encoding of 60,000 files; half an hour
    python -m tests.benchmarks scaling             what 1, 8 and 64 machines would do, simulated; 10 seconds
    python -m tests.benchmarks encoding EXPORTED...        images/s of encode and decode
    python -m tests.benchmarks lookup [--pictures FOLDER]  the lookup against Gemm and ArgMin; 10 minutes
    python -m tests.benchmarks compiled            steps with torch.compile and without; 5 minutes
    python -m tests.benchmarks choices PART        what nets, quantizers and losses are worth; hours
    python -m tests.benchmarks classifier          train the reference classifier; 10 minutes
    python -m tests.benchmarks pixels RUN EXPORTED         the pixel loop's graph against full passes in torch
    python -m tests.benchmarks lossy               the VLAE without its parts, other windows; two hours
    python -m tests.benchmarks draws EXPORTED FILE         several images drawn from one code, as a picture
    python -m tests.benchmarks memorised EXPORTED  samples beside the training pictures nearest to them
    python -m tests.benchmarks sampling RUN EXPORTED       the sampler's graph against torch loops
    python -m tests.benchmarks parallel            sampling in parallel against one by one; two minutes
    python -m tests.benchmarks chains RUN EXPORTED         Langevin through a service against a torch loop
    python -m tests.benchmarks agreement RUN       a running service's codes against torch's

Each prints a Markdown table; docs/benchmarks/ has the figures.
"""

from importlib import import_module

import click

MODULES = (
    "access_log",
    "agreement",
    "bulk",
    "chains",
    "choices",
    "classifier",
    "client",
    "codebooks",
    "compiled",
    "draws",
    "encoding",
    "decoding",
    "fuzz.command",
    "gpu.command",
    "hostile.command",
    "lookup",
    "lossy",
    "memorised",
    "mixture",
    "overload",
    "parallel",
    "pixels",
    "remote_vae",
    "sampling",
    "scaling",
    "serving.command",
    "sizes",
    "soak",
    "training",
)


class OneByOne(click.Group):
    """Each command is a module of its own, and needs only what that module imports."""

    def get_help(self, _context: click.Context) -> str:
        return __doc__ or ""

    def list_commands(self, _context: click.Context) -> list[str]:
        return [_shown(name) for name in MODULES]

    def get_command(self, _context: click.Context, name: str) -> click.Command | None:
        module = next((module for module in MODULES if _shown(module) == name), None)
        return import_module(f"tests.benchmarks.{module}").command if module else None


def _shown(module: str) -> str:
    return module.removesuffix(".command").replace("_", "-")


@click.command(cls=OneByOne)
def main() -> None:
    """Measure Tessera against its peers."""


if __name__ == "__main__":
    main(prog_name="python -m tests.benchmarks")
