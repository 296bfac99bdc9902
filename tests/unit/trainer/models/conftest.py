import pytest

from tests.unit.trainer.models.exported import Exported


@pytest.fixture(scope="session")
def exported() -> Exported:
    return Exported()
