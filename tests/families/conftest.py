"""What the tests of families share."""

from __future__ import annotations

import pytest
from families.made import Families


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Families:
    return Families(tmp_path_factory.mktemp("families"))
