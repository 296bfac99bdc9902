"""``load``: an exported model, in this process."""

from os import PathLike
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from service.contract.measures import Precision
    from tessera.local.model import Model


def load(
    source: str | PathLike[str],
    *,
    provider: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int = 0,
    max_pixels: int = 2**24,
    precision: "Precision" = "32",
) -> "Model":
    """Load an exported model, to run on ONNX Runtime in this process.

    - ``source``: its folder, or ``hf://owner/name@revision`` for one of the Hugging Face hub
    - ``provider``: ``auto`` is CUDA if it works, else the CPU; ``cuda`` is CUDA or an error
    - ``threads``: CPU threads for one operation; 0 for all CPUs that the process may use
    - ``max_pixels``: the largest picture, in pixels; checked before any pixel is decoded
    - ``precision``: ``16`` (float16) or ``bf16`` for graphs in half precision. A model without them, or where
      they do not run, runs in ``32``; ``info()`` says why.

    The files are verified by the hashes of the manifest, and each graph runs once. Several threads may use
    the model. It gives the results of a service with the same provider and number of threads, bit for bit; of
    chains on a GPU, if the service has ``--cpu-rows 0``.

    Raises ModelRefused with the reason, BadValue for another provider or precision or for threads that are no
    whole number, and StartupError if CUDA is asked for and does not work.

    >>> import tessera
    >>> model = tessera.load("exported/vqvae-mnist")
    >>> model
    <Model vqvae-mnist 70046324a45e on cpu>
    """
    # ONNX Runtime is not loaded for a client.
    from tessera.local.model import loaded

    return loaded(source, provider, threads, max_pixels, precision)
