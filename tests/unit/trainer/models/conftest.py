import pytest

from tests.unit.trainer.models.exported import Exported


@pytest.fixture(scope="package")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("samplers"))
