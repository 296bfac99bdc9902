"""Measure Tessera against its peers, in the environment that `make bench` makes.

    python -m tests.bench training            images/s of the training loop, in turns; about 10 minutes
    python -m tests.bench codebooks           the quantizer against vector-quantize-pytorch; an hour
    python -m tests.bench encoding EXPORTED...        images/s of encode and decode
    python -m tests.bench classifier          train what judges samples; 10 minutes
    python -m tests.bench pixels RUN EXPORTED         the pixel loop's graph against full passes in torch
    python -m tests.bench lossy               the VLAE without its parts, and with other windows; two hours
    python -m tests.bench draws EXPORTED FILE         a picture of several images drawn from one code
    python -m tests.bench sampling RUN EXPORTED       the sampler's graph against torch loops
    python -m tests.bench chains RUN EXPORTED         Langevin through a service against a torch loop
    python -m tests.bench serving             the service and its peers under load; an hour
    python -m tests.bench agreement RUN       a running service's codes against torch's
    python -m tests.bench fuzz                bodies of all kinds, mostly broken, against the service

Each prints a Markdown table, as it stands in the README.
"""

import click

from tests.bench import (
    agreement,
    chains,
    classifier,
    codebooks,
    draws,
    encoding,
    fuzz,
    lossy,
    pixels,
    sampling,
    training,
)
from tests.bench.serving.command import command as serving


@click.group(help=__doc__)
def main() -> None:
    """Measure Tessera against its peers."""


main.add_command(agreement.command)
main.add_command(chains.command)
main.add_command(classifier.command)
main.add_command(encoding.command)
main.add_command(draws.command)
main.add_command(fuzz.command)
main.add_command(lossy.command)
main.add_command(pixels.command)
main.add_command(sampling.command)
main.add_command(serving)
main.add_command(training.command)
main.add_command(codebooks.command)

if __name__ == "__main__":
    main(prog_name="python -m tests.bench")
