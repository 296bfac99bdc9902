"""From the settings: the execution provider that runs the graphs, and how large a batch may be."""

from service.models.model import BatchLimits
from service.runtime.providers import Provider, choose_provider
from service.settings import Settings


def execution(settings: Settings) -> tuple[Provider, BatchLimits]:
    """The provider of the settings, after a probe of CUDA, and the limits of a batch that runs there.

    Raises StartupError if the settings ask for CUDA and it does not work.
    """
    provider = choose_provider(
        settings.provider,
        settings.threads,
        tf32=settings.tf32,
        captures=settings.cuda_graphs,
        graph_bytes=settings.gpu_graph_bytes,
        precision=settings.precision,
        cpu_rows=settings.cpu_rows,
    )
    return provider, BatchLimits.on(
        provider, settings.batch_size, settings.batch_pixels, settings.tile_pixels
    )
