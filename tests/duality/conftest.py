"""The helpers shared by all tests of `duality` live beside the property tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "properties"))
