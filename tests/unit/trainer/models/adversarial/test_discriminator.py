import pytest
import torch

from tests.fixtures import tiny_models
from trainer.config import VQVAEConfig
from trainer.models.adversarial.discriminator import Discriminator, Norm


@pytest.mark.parametrize("norm", ["group", "spectral", "none"])
def test_it_scores_patches_of_images_of_any_size_each_image_alone(norm: Norm) -> None:
    torch.manual_seed(0)
    network = Discriminator(3, width=8, layers=3, norm=norm).eval()
    images = torch.rand(2, 3, 16, 24) * 2 - 1
    scores = network(images)
    assert scores.shape == (2, 1, 2, 3)
    torch.testing.assert_close(network(images[:1]), scores[:1])
    assert network(images[:, :, :8, :8]).shape == (2, 1, 1, 1)


@pytest.mark.parametrize(("layers", "pixels"), [(1, 12), (2, 26), (3, 54)])
def test_a_score_is_of_as_many_pixels_as_the_flag_says(layers: int, pixels: int) -> None:
    torch.manual_seed(0)
    network = Discriminator(1, width=8, layers=layers, norm="none")
    image = torch.rand(1, 1, 64, 64, requires_grad=True)
    scores = network(image)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    assert image.grad is not None
    assert int((image.grad[0, 0] != 0).any(dim=1).sum()) == pixels
    described = VQVAEConfig.model_fields["discriminator_layers"].description
    assert described is not None
    assert str(pixels) in described


def test_images_that_are_too_small_are_an_error_that_names_the_flag() -> None:
    said = r"28x28 pixels are too small .* of 5 halvings; discriminator_layers can be 4 at most"
    with pytest.raises(ValueError, match=said):
        tiny_models.model(adversarial=0.5, discriminator_layers=5)
    with pytest.raises(ValueError, match=said):
        tiny_models.vae(adversarial=0.5, discriminator_layers=5)
    assert tiny_models.model(discriminator_layers=5).opponent(1) is None
