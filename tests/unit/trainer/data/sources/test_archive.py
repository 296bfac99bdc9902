"""The bundled archive of emoji: its parts, classes and pictures."""

from collections import Counter

from trainer.data.loading import load
from trainer.data.sources.archive import bundled_emoji


def test_has_the_classes_in_both_parts_and_no_emoji_in_two() -> None:
    source = bundled_emoji()
    assert source.test is not None
    assert source.label_names is not None
    names = [
        [part.name(index).partition("/")[2] for index in range(len(part))]
        for part in (source.train, source.test)
    ]
    assert (len(names[0]), len(names[1])) == (2819, 314)
    bases = [{_without_tones(name) for name in part} for part in names]
    assert not bases[0] & bases[1]
    for part in names:
        assert sorted(Counter(name.split("/")[0] for name in part)) == list(source.label_names)


def test_the_first_pictures_are_of_all_classes() -> None:
    dataset = load("emoji", limit=8, test_limit=8)
    assert (dataset.spec.height, dataset.spec.width, dataset.spec.channels) == (128, 128, 3)
    assert dataset.train.labels is not None
    assert sorted(dataset.train.labels.tolist()) == list(range(8))
    assert dataset.skipped == ()


def _without_tones(name: str) -> str:
    folder, _, stem = name.removesuffix(".webp").partition("/")
    tones = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}
    return f"{folder}/{'-'.join(part for part in stem.split('-') if part not in tones)}"
