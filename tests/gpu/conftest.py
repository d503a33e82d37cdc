"""The program's parts on a CPU, which are run to see that they run."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
from tests.diffusion.short import short_chains


@pytest.fixture(scope="module", autouse=True)
def _short():
    with short_chains():
        yield
