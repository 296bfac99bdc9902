"""The methods that a model has, in this process or behind a service."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from numpy.typing import ArrayLike

from tessera.inputs import Box, Labels, Pictures
from tessera.results import Codes, Images, ModelInfo, ModelSummary, Reconstruction, Samples, Scores

Size = tuple[int, int]
"""Height and width in pixels."""


class Tokenizer(ABC):
    """A model that turns pictures into codes and back: what ``load`` and ``Client`` return.

    A picture of another size is made to fit by the rule of the model. ``label`` is a class by index or name,
    for all rows or one for each. The same ``seed`` gives the same results, and a row has the same result
    whatever is beside it. Further keywords are parameters of the model, such as ``temperature``; ``info()``
    lists them.

    Every method raises ``TesseraError``; for a value that is not allowed it is a ``Problem`` that names what
    was given and what is allowed. A picture's file that cannot be read raises OSError.
    """

    @abstractmethod
    def encode(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Codes:
        """Turn pictures into codes: int32 or float32 ``(N, *shape)``.

        With ``resize=False`` pictures keep their size, where the model can, and are padded to the next one
        that it takes. Without a seed the codes are those of the default noise.

        >>> codes = model.encode("tests/fixtures/seven.png")
        >>> codes.shape, codes.dtype.name, codes[0, 0].tolist()
        ((1, 7, 7), 'int32', [238, 109, 243, 238, 23, 464, 343])
        """

    @abstractmethod
    def decode(
        self,
        codes: ArrayLike,
        *,
        size: Size | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Images:
        """Turn codes ``(N, *shape)`` into images, uint8 ``(N, H, W, C)``.

        ``size`` is the height and width of pictures that were padded by ``encode``: the padding is cut off.

        >>> codes = model.encode("tests/fixtures/seven.png")
        >>> model.decode(codes).shape
        (1, 28, 28, 1)
        """

    @abstractmethod
    def reconstruct(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Reconstruction:
        """Encode pictures and decode their codes: what the model preserves of them.

        >>> model.reconstruct("tests/fixtures/seven.png").psnr.round(2).tolist()
        [32.01]
        """

    @abstractmethod
    def score(
        self,
        pictures: Pictures,
        *,
        resize: bool = True,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Scores:
        """Score how likely the model finds pictures. Without a seed one is drawn; it is in the result.

        >>> scores = vae.score("tests/fixtures/seven.png", seed=1, samples=16)
        >>> sorted(scores.figures)
        ['elbo', 'kl', 'nll', 'reconstruction']
        """

    @abstractmethod
    def sample(
        self,
        n: int | None = None,
        *,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        """Draw ``n`` new images; by default one, or one for each label.

        ``method`` is how to sample; by default ``prior``, or the first in the model's manifest. With the
        parameter ``every=20``, a method that has it also gives every 20th state of each chain.

        >>> sevens = model.sample(2, label=7, seed=1, temperature=0.9)
        >>> sevens.images.shape, sevens.seed, sevens.method
        ((2, 28, 28, 1), 1, 'autoregressive')
        """

    @abstractmethod
    def complete(
        self,
        pictures: Pictures | None = None,
        *,
        box: Box | Sequence[Box] | None = None,
        codes: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        n: int | None = None,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        """Sample a part of pictures or of codes, and keep the rest.

        Give pictures and a ``box``, or ``codes`` and a ``mask`` that is True where a code is sampled. A box
        is left, top, right and bottom in pixels of the upright picture. One row has ``n`` completions,
        several have one each.

        >>> model.complete("tests/fixtures/seven.png", box=(0, 14, 28, 28), n=8, seed=1).images.shape
        (8, 28, 28, 1)
        """

    @abstractmethod
    def interpolate(
        self,
        pictures: Pictures | None = None,
        *,
        codes: ArrayLike | None = None,
        n: int | None = None,
        method: str | None = None,
        label: Labels | None = None,
        seed: int | None = None,
        **parameters: float,
    ) -> Samples:
        """Go from one of two pictures, or of two rows of ``codes``, to the other in ``n`` points.

        Both ends are among the points, which are nine by default. Without ``method`` it is the first that
        interpolates.

        >>> between = vae.interpolate(["tests/fixtures/seven.png"] * 2, n=5)
        >>> between.images.shape, between.method
        ((5, 28, 28, 1), 'interpolate')
        """

    @abstractmethod
    def codebook(self) -> Codes:
        """The code vectors: float32 ``(size, dimension)``. Raises MissingFile if the model has none.

        >>> model.codebook().shape
        (512, 32)
        """

    @abstractmethod
    def preview(self) -> bytes:
        """A PNG of originals, reconstructions and samples. Raises MissingFile if the model has none.

        >>> model.preview()[1:4]
        b'PNG'
        """

    @abstractmethod
    def info(self) -> ModelInfo:
        """The model in full: inputs, outputs, operations with their parameters, and metrics.

        >>> info = model.info()
        >>> info.version, info.codes.shape, sorted(info.operations)
        ('70046324a45e', (7, 7), ['decode', 'encode', 'sample/autoregressive'])
        """

    @abstractmethod
    def models(self) -> list[ModelSummary]:
        """The models that are there: those of the service, or the one that was loaded.

        >>> [each.name for each in model.models()]
        ['vqvae-mnist']
        """

    def close(self) -> None:  # noqa: B027 - only a client has something to close
        """Close the connections, if there are any."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
