"""What all tests share: how Hypothesis chooses its examples, and libraries that a core installation may lack.

`HYPOTHESIS_PROFILE` names the profile. Left out it is `ci`, on a server and at a desk alike:

    ci        the same examples on every machine, every day: a red run is the fault of the change
    random    fresh examples each run, as `make test-all` wants; a failure prints how to have it again
"""

import os
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
settings.register_profile("random", deadline=None, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No run of a test finds what others left in the user's cache folder, nor leaves anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLEARNING_DUALITY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def torch() -> ModuleType:
    """torch, or a skip: the core is NumPy and SciPy, and its tests run without."""
    return pytest.importorskip("torch")
