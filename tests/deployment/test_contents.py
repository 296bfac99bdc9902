"""What is said of the files of an image; `python -m tests.deployment.images` asks it of real ones."""

import io
import tarfile

import pytest

from tests.deployment.images.contents import SERVICE_LACKS, TRAINER_LACKS, Entry, complaints, entries

SITE = "opt/venv/lib/python3.11/site-packages"
GOOD = [
    Entry("app/service/__main__.py", 0o644, 0, 0, 1),
    Entry("opt/venv/bin/python", 0o777, 0, 0, 0, is_link=True, is_file=False),
    Entry("tmp", 0o1777, 0, 0, 0, is_file=False),
    Entry(f"{SITE}/onnxruntime/__init__.py", 0o644, 0, 0, 1),
    Entry(f"{SITE}/numpy/testing/__init__.py", 0o644, 0, 0, 1),
    Entry("usr/bin/fold", 0o755, 0, 0, 1),
    Entry("usr/bin/test", 0o755, 0, 0, 1),
]


def found_wrong(*more: Entry) -> list[str]:
    return complaints([*GOOD, *more], SERVICE_LACKS, ["tmp"], 10001, 10001)


def test_of_a_good_image_there_is_nothing_to_say() -> None:
    assert found_wrong() == []


@pytest.mark.parametrize(
    ("path", "what"),
    [
        (f"{SITE}/torch/__init__.py", "torch"),
        (f"{SITE}/torch-2.15.0.dist-info/METADATA", "torch"),
        ("usr/bin/gcc", "a compiler"),
        ("usr/bin/x86_64-linux-gnu-gcc-12", "a compiler"),
        ("usr/bin/g++", "a compiler"),
        ("usr/local/bin/make", "a compiler"),
        ("app/tests/fixtures/seven.png", "a test, or data for one"),
        ("app/service/tests/test_it.py", "a test, or data for one"),
        ("app/trainer/data/mnist/train-images-idx3-ubyte.gz", "a test, or data for one"),
        ("app/README.md", "a test, or data for one"),
        (f"{SITE}/numpy/tests/test_numpy.py", "a test, or data for one"),
        (f"{SITE}/pip/__init__.py", "an installer"),
        ("usr/local/bin/pip3", "an installer"),
        ("etc/pip.conf", "a key or a setting of somebody's"),
        ("app/service/.env", "a key or a setting of somebody's"),
    ],
)
def test_what_does_not_belong_there_is_found(path: str, what: str) -> None:
    assert f"{path}: {what}" in found_wrong(Entry(path, 0o644, 0, 0, 1))


@pytest.mark.parametrize(
    ("entry", "is_wrong"),
    [
        (Entry("var/tmp", 0o1777, 0, 0, 0, is_file=False), True),
        (Entry("exported", 0o755, 10001, 0, 0, is_file=False), True),
        (Entry("exported", 0o555, 10001, 0, 0, is_file=False), False),
        (Entry("opt/file", 0o664, 0, 10001, 1), True),
        (Entry("opt/file", 0o664, 0, 0, 1), False),
        (Entry("opt/file", 0o646, 0, 0, 1), True),
    ],
)
def test_what_the_user_could_write_to_is_found(entry: Entry, is_wrong: bool) -> None:
    assert (found_wrong(entry) == [f"{entry.path}: the user of the image can write to it"]) is is_wrong


def test_what_raises_rights_is_found() -> None:
    assert found_wrong(Entry("usr/bin/su", 0o4755, 0, 0, 1)) == [
        "usr/bin/su: it runs with the rights of another"
    ]


def test_the_trainer_may_have_torch_and_its_data_and_no_tests() -> None:
    good = [
        Entry(f"{SITE}/torch/__init__.py", 0o644, 0, 0, 1),
        Entry("app/trainer/data/mnist/t10k-images-idx3-ubyte.gz", 0o644, 0, 0, 1),
    ]
    assert complaints(good, TRAINER_LACKS, ["tmp"], 1, 1) == []
    bad = Entry("app/tests/conftest.py", 0o644, 0, 0, 1)
    assert len(complaints([bad], TRAINER_LACKS, ["tmp"], 1, 1)) == 1


def test_an_archive_is_read_as_engines_write_it() -> None:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, kind in (
            ("./", tarfile.DIRTYPE),
            ("./tmp/", tarfile.DIRTYPE),
            ("dev/null", tarfile.CHRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.mode = kind, 0o1777
            archive.addfile(member)
        link = tarfile.TarInfo("lib")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/lib"
        archive.addfile(link)
    written.seek(0)
    with tarfile.open(fileobj=written) as archive:
        found = list(entries(archive))
    assert found == [
        Entry("tmp", 0o1777, 0, 0, 0, is_file=False),
        Entry("lib", 0o644, 0, 0, 0, is_link=True, is_file=False),
    ]
