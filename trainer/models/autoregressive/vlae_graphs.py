"""The graphs of a VLAE: codes and back pixel by pixel, a score of images, and samples of the prior."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from service.contract.manifest import Input, Output, Parameter, Role
from trainer.config.gaussian import HOTTEST
from trainer.models.autoregressive.flow_prior import sampler
from trainer.models.base import Graph, to_shares
from trainer.models.gaussian.operations import BATCH, encoding, interpolation
from trainer.models.gaussian.scores import for_every_draw, negative_log_mean, scoring

if TYPE_CHECKING:
    from trainer.models.vlae import VLAE

# Images whose draws are held against torch's.
COMPARED = 16


def of_vlae(model: "VLAE") -> list[Graph]:
    """``encode``, ``decode``, ``score``, ``sample/prior`` and ``sample/interpolate``."""
    dim = model.config.latent_dim
    return [
        encoding(model),
        _decoding(model),
        scoring(Score(model), model.image, dim, model.prior.no_label if model.classes else None),
        _sampling(model),
        interpolation(dim),
    ]


def _decoding(model: "VLAE") -> Graph:
    pixels = model.image.height * model.image.width
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(COMPARED, model.config.latent_dim, generator=generator)
    noise = torch.rand(COMPARED, pixels, model.pixel.noises, generator=generator)
    return Graph(
        operation="decode",
        file="decoder.onnx",
        module=model.loop(),
        examples=(codes, noise, torch.tensor(1.0), torch.tensor(0)),
        axes=(BATCH, BATCH, {}, {}),
        inputs=(
            Input(name="codes", role=Role.codes),
            pixel_noise(model),
            Input(name="temperature", role=Role.parameter),
            Input(name="mean", role=Role.parameter),
        ),
        outputs=(Output(name="images", role=Role.images),),
        description="An image of a code, drawn pixel by pixel: always the same one, or with a seed another.",
        parameters={
            "temperature": Parameter(
                dtype="float32",
                default=1,
                minimum=0,
                maximum=HOTTEST,
                description="Of the pixels' draws: 0 takes the likeliest each time.",
            ),
            "mean": Parameter(
                dtype="int64",
                default=int(model.pixel.shows_mean),
                minimum=0,
                maximum=1,
                description="1: answer for each pixel the mean of what it is drawn from; 0: the pixel drawn.",
            ),
        },
    )


def pixel_noise(model: "VLAE") -> Input:
    """Of ``decode``.

    Without a seed it is not the likeliest pixels that are taken: where a stroke begins is never likely, so
    thin ones would be missing.
    """
    shape = (model.image.height * model.image.width, model.pixel.noises)
    return Input(name="noise", role=Role.uniform, shape=shape, default_seed=0)


def _sampling(model: "VLAE") -> Graph:
    dim = model.config.latent_dim
    inputs = [
        Input(name="noise", role=Role.normal, shape=(dim,)),
        Input(name="code_temperature", role=Role.parameter),
    ]
    examples = [torch.randn(2, dim, generator=torch.Generator().manual_seed(0)), torch.tensor(1.0)]
    axes: list[dict[int, str]] = [BATCH, {}]
    if model.classes:
        inputs.append(Input(name="label", role=Role.label, default=model.prior.no_label))
        examples.append(torch.tensor([0, model.prior.no_label]))
        axes.append(BATCH)
    return Graph(
        operation="sample/prior",
        file="sample_prior.onnx",
        module=sampler(model.prior),
        examples=tuple(examples),
        axes=tuple(axes),
        inputs=tuple(inputs),
        outputs=(Output(name="codes", role=Role.codes),),
        description="Codes from the prior, an autoregressive flow; with a label, of that class.",
        parameters={
            "code_temperature": Parameter(
                dtype="float32",
                default=model.config.code_temperature,
                minimum=0,
                maximum=HOTTEST,
                description="Of the codes: what the base's standard deviations are multiplied by.",
            )
        },
    )


class Score(nn.Module):
    """Images, uint8 ``(N, H, W, C)``, noise, float32 ``(N, S, d)``, and classes to figures ``(N,)``."""

    def __init__(self, model: "VLAE") -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, noise: Tensor, label: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        model = self.model
        pixels = to_shares(images.permute(0, 3, 1, 2))
        labels = torch.zeros_like(images[:, 0, 0, 0]).long() if label is None else label
        posterior = model.posterior(pixels)
        codes = posterior.mean[:, None] + (posterior.log_variance[:, None] / 2).exp() * noise
        flat = codes.flatten(0, 1)
        fit = model.log_prob(for_every_draw(pixels, noise), flat).view_as(noise[:, :, 0]).double()
        prior = model.prior.log_probs(flat, for_every_draw(labels, noise)).sum(dim=1).view_as(fit).double()
        entropy = posterior.entropy().sum(dim=1).double()
        # -log q(z|x) of a draw, by its noise.
        surprise = entropy[:, None] + (noise.square() - 1).sum(dim=2).double() / 2
        nll = negative_log_mean(fit + prior + surprise)
        reconstruction = fit.mean(dim=1)
        kl = -(prior.mean(dim=1) + entropy)
        return (reconstruction - kl).float(), reconstruction.float(), kl.float(), nll.float()
