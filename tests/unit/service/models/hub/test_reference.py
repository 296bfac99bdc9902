import pytest

from service.models.hub.reference import Reference


@pytest.mark.parametrize(
    ("source", "repository", "revision"),
    [
        ("hf://ada/engine", "ada/engine", None),
        ("hf://ada/the.engine_2@v1.0", "ada/the.engine_2", "v1.0"),
        ("hf://ada/engine@refs/pr/4", "ada/engine", "refs/pr/4"),
    ],
)
def test_references(source: str, repository: str, revision: str | None) -> None:
    reference = Reference.parse(source)
    assert (reference.repository, reference.revision, str(reference)) == (repository, revision, source)
    assert reference.name == repository.partition("/")[2]


@pytest.mark.parametrize(
    "bad", ["hf://", "hf://engine", "hf://a/b/c", "hf://ada/..", "hf://ada/engine@", "hf://ada/engine@../x"]
)
def test_what_is_no_reference(bad: str) -> None:
    with pytest.raises(ValueError, match=r"is no model of the hub; it is hf://OWNER/NAME"):
        Reference.parse(bad)
