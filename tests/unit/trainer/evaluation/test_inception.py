"""The network of rFID, with random weights in the layout of the published file."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import inception_v3

from service.contract.manifest import CodesSpec
from trainer.errors import DataError
from trainer.evaluation.exported_model import Reconstructed
from trainer.evaluation.inception import Inception, ReconstructionDistance

State = dict[str, Tensor]
CODES = CodesSpec(dtype="float32", shape=(1,))


@pytest.fixture(scope="module")
def weights() -> State:
    """Weights that keep the size of the activations, so that no part of the network is without effect."""
    generator = torch.Generator().manual_seed(0)
    return {name: _random(name, tensor.shape, generator) for name, tensor in layout().items()}


def layout() -> State:
    """Tensors of the right shapes that hold nothing."""
    with torch.device("meta"):
        return inception_v3(num_classes=1008, aux_logits=False, init_weights=False).state_dict()


def _random(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith(("running_var", "bn.weight")):
        return 0.5 + torch.rand(shape, generator=generator)
    if len(shape) == 4:
        return torch.randn(shape, generator=generator) * (2 / math.prod(shape[1:])) ** 0.5
    return 0.1 * torch.randn(shape, generator=generator)


def images(count: int, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, 40, 56), generator=generator).byte()


class ByHand:
    """The network as functions of the tensors by name, written after the paper and the notes on FID."""

    def __init__(self, weights: State) -> None:
        self.weights = weights

    def conv(self, x: Tensor, name: str, stride: int = 1, *, same: bool = True) -> Tensor:
        kernel = self.weights[f"{name}.conv.weight"]
        padding = [side // 2 if same and stride == 1 else 0 for side in kernel.shape[2:]]
        x = F.conv2d(x, kernel, stride=stride, padding=padding)
        mean, variance, scale, shift = (
            self.weights[f"{name}.bn.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return ((x - mean) / (variance + 1e-3).sqrt() * scale + shift).relu()

    def row(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.conv(x, name)
        return x

    def mean(self, x: Tensor) -> Tensor:
        # Sums of cells over how many cells there are.
        window = torch.ones(x.shape[1], 1, 3, 3)
        sums = F.conv2d(x, window, padding=1, groups=x.shape[1])
        return sums / F.conv2d(torch.ones_like(x), window, padding=1, groups=x.shape[1])

    def halved(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, stride=2)

    def __call__(self, pixels: Tensor) -> Tensor:
        x = F.interpolate(pixels.float(), (299, 299), mode="bilinear", align_corners=False) / 127.5 - 1
        x = self.conv(self.conv(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3", same=False)
        x = self.halved(self.conv(x, "Conv2d_2b_3x3"))
        x = self.halved(self.conv(self.conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3", same=False))
        for letter in "bcd":
            x = self.block_a(x, f"Mixed_5{letter}.")
        dbl = self.row(x, "Mixed_6a.branch3x3dbl_1", "Mixed_6a.branch3x3dbl_2")
        dbl = self.conv(dbl, "Mixed_6a.branch3x3dbl_3", 2)
        x = torch.cat([self.conv(x, "Mixed_6a.branch3x3", 2), dbl, self.halved(x)], 1)
        for letter in "bcde":
            x = self.block_c(x, f"Mixed_6{letter}.")
        one = self.conv(self.conv(x, "Mixed_7a.branch3x3_1"), "Mixed_7a.branch3x3_2", 2)
        dbl = self.row(x, *(f"Mixed_7a.branch7x7x3_{part}" for part in (1, 2, 3)))
        x = torch.cat([one, self.conv(dbl, "Mixed_7a.branch7x7x3_4", 2), self.halved(x)], 1)
        x = self.block_e(x, "Mixed_7b.", self.mean(x))
        x = self.block_e(x, "Mixed_7c.", F.max_pool2d(x, 3, stride=1, padding=1))
        return x.mean(dim=(2, 3))

    def block_a(self, x: Tensor, at: str) -> Tensor:
        five = self.row(x, at + "branch5x5_1", at + "branch5x5_2")
        dbl = self.row(x, *(f"{at}branch3x3dbl_{part}" for part in (1, 2, 3)))
        pool = self.conv(self.mean(x), at + "branch_pool")
        return torch.cat([self.conv(x, at + "branch1x1"), five, dbl, pool], 1)

    def block_c(self, x: Tensor, at: str) -> Tensor:
        seven = self.row(x, *(f"{at}branch7x7_{part}" for part in (1, 2, 3)))
        dbl = self.row(x, *(f"{at}branch7x7dbl_{part}" for part in (1, 2, 3, 4, 5)))
        pool = self.conv(self.mean(x), at + "branch_pool")
        return torch.cat([self.conv(x, at + "branch1x1"), seven, dbl, pool], 1)

    def block_e(self, x: Tensor, at: str, pooled: Tensor) -> Tensor:
        three = self.conv(x, at + "branch3x3_1")
        dbl = self.row(x, at + "branch3x3dbl_1", at + "branch3x3dbl_2")
        wide = [self.conv(three, at + "branch3x3_2a"), self.conv(three, at + "branch3x3_2b")]
        wide += [self.conv(dbl, at + "branch3x3dbl_3a"), self.conv(dbl, at + "branch3x3dbl_3b")]
        return torch.cat([self.conv(x, at + "branch1x1"), *wide, self.conv(pooled, at + "branch_pool")], 1)


@pytest.mark.slow
def test_the_features_of_a_file_are_those_of_the_network_written_by_hand(
    weights: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Inception] = []
    monkeypatch.setattr(
        "trainer.evaluation.inception.FrechetInceptionDistance", lambda feature: made.append(feature)
    )
    torch.save(weights, tmp_path / "weights.pth")
    ReconstructionDistance(tmp_path / "weights.pth", "ab" * 32)
    given = images(2)
    found = made[0](given)
    assert (found.shape, found.dtype) == ((2, 2048), torch.float32)
    expected = ByHand(weights)(given)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_grey_images_are_those_of_three_equal_channels(
    weights: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.evaluation.inception.AT_ONCE", 2)
    net, grey = Inception(weights), images(3, channels=1)
    together = net(grey)
    assert torch.equal(together, net(grey))
    torch.testing.assert_close(together[-1:], net(grey[-1:].repeat(1, 3, 1, 1)), rtol=1e-4, atol=1e-3)


def batch(first: Tensor, second: Tensor) -> Reconstructed:
    return Reconstructed(first.permute(0, 2, 3, 1), torch.zeros(len(first), 1), second.permute(0, 2, 3, 1))


def test_equal_sets_are_at_no_distance_and_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    originals, net = images(5), Projected()
    with_features(monkeypatch, net)
    nothing, much = (ReconstructionDistance(Path("any"), "ab" * 32) for _ in range(2))
    for rows in (slice(0, 3), slice(3, 5)):
        nothing.add(batch(originals[rows], originals[rows]))
        much.add(batch(originals[rows], 255 - originals[rows] // 2))
    distance = much.values()["rfid"]
    assert distance > 1
    assert abs(nothing.values()["rfid"]) < 1e-3 * distance
    assert nothing.settings["fid_weights"] == "ab" * 32
    ours, theirs = (net(rows).double() for rows in (originals, 255 - originals // 2))
    assert distance == pytest.approx(closed_form(ours, theirs), rel=1e-3)


def with_features(monkeypatch: pytest.MonkeyPatch, net: torch.nn.Module) -> None:
    """Let another network make the features, whatever the file."""
    monkeypatch.setattr("trainer.evaluation.inception._read", lambda _: {})
    monkeypatch.setattr("trainer.evaluation.inception.Inception", lambda _: net)


class Projected(torch.nn.Module):
    """Instead of the network: 16 random sums of the levels. A distance in 2,048 features takes seconds."""

    num_features = 16

    def forward(self, given: Tensor) -> Tensor:
        flat = given.flatten(1).float() / 255
        return flat @ torch.randn(flat.shape[1], 16, generator=torch.Generator().manual_seed(0))


def closed_form(ours: Tensor, theirs: Tensor) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2) - 2 Tr sqrt(C1 C2): of few rows, the last is a sum of singular values."""
    centred = [rows - rows.mean(dim=0) for rows in (ours, theirs)]
    shift = (ours.mean(dim=0) - theirs.mean(dim=0)).square().sum()
    traces = sum(rows.square().sum() for rows in centred)
    cross = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    return float(shift + (traces - 2 * cross) / (len(ours) - 1))


def test_a_single_image_has_no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    with_features(monkeypatch, Levels())
    distance = ReconstructionDistance(Path("any"), "ab" * 32)
    distance.add(batch(images(1), images(1)))
    assert distance.values() == {}


class Levels(torch.nn.Module):
    """Instead of the network: the mean level."""

    num_features = 1

    def forward(self, given: Tensor) -> Tensor:
        return given.float().mean(dim=(1, 2, 3))[:, None]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is no file of tensors that torch reads"),
        (b"\x80\x02cposix\nsystem\n(S'true'\ntR.", "is no file of tensors that torch reads"),
    ],
    ids=["empty", "code"],
)
def test_a_file_of_anything_else_is_refused(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"--fid-weights .*weights\.pth {complaint}"):
        ReconstructionDistance(file, "ab" * 32)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ([torch.zeros(2)], "is no state dict"),
        ({"a": 1}, "is no state dict"),
        ({}, r"are not those of InceptionV3 for FID: Conv2d_1a_3x3\.conv\.weight is missing"),
        (
            {"Conv2d_1a_3x3.conv.weight": torch.zeros(2, 3)},
            r"Conv2d_1a_3x3\.conv\.weight is \[2, 3\], not \[32, 3, 3, 3\]",
        ),
    ],
    ids=["list", "number", "missing", "shape"],
)
def test_other_tensors_are_refused(tmp_path: Path, content: object, complaint: str) -> None:
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    with pytest.raises(DataError, match=complaint):
        ReconstructionDistance(file, "ab" * 32)


def test_a_tensor_too_many_is_refused() -> None:
    with pytest.raises(DataError, match="extra is left over"):
        Inception({**layout(), "extra": torch.zeros(1)})
