"""Images to codes and back, in three lines: in this process, or by a service.

    import tessera

    model = tessera.load("exported/vqvae-mnist")     # or tessera.Client("http://localhost:8000")
    codes = model.encode("picture.png")

``load`` runs an exported model on ONNX Runtime in this process; it needs neither PyTorch nor a server.
``Client`` and ``AsyncClient`` ask a running service. All have the methods of ``Tokenizer``, and give the same
results.
"""

from service.contract import __version__
from service.errors import ModelRefused, Problem, TesseraError
from tessera.errors import ConnectionFailed, UnexpectedResponse
from tessera.inputs import Picture, Pictures
from tessera.interface import Tokenizer
from tessera.loading import load
from tessera.remote.async_client import AsyncClient
from tessera.remote.client import Client
from tessera.results import ModelInfo, ModelSummary, Reconstruction, Samples, Scores

__all__ = [
    "AsyncClient",
    "Client",
    "ConnectionFailed",
    "ModelInfo",
    "ModelRefused",
    "ModelSummary",
    "Picture",
    "Pictures",
    "Problem",
    "Reconstruction",
    "Samples",
    "Scores",
    "TesseraError",
    "Tokenizer",
    "UnexpectedResponse",
    "__version__",
    "load",
]
