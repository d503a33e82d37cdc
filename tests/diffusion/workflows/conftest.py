"""A pipeline that workflows leave as it is."""

import pytest

from tests.diffusion import families
from tests.diffusion.families import build


@pytest.fixture(scope="module")
def pipeline():
    return build(families.sd)
