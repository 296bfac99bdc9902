import torch

from trainer.stage import to_pixels, to_unit


def test_every_pixel_value_survives_scaling() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    units = to_unit(levels)
    assert (units[0].item(), units[-1].item()) == (-1, 1)
    assert torch.equal(to_pixels(units), levels)


def test_pixels_are_clamped_and_rounded() -> None:
    units = torch.tensor([-7.0, -0.999, 0.999, 7.0])
    assert to_pixels(units).tolist() == [0, 0, 255, 255]
    assert to_pixels(torch.tensor([0.002])).item() == 128
