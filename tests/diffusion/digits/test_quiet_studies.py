"""Studies load a pipeline without news of what transformers lacks, as the command line does."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("transformers")


@pytest.mark.parametrize("studies", ["diffusion.digits.experiments", "diffusion.wardrobe.experiments"])
def test_importing_studies_quietens_transformers(studies):
    plain = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    code = f"import {studies}, os; print(os.environ['TRANSFORMERS_VERBOSITY'])"
    said = subprocess.run([sys.executable, "-c", code], env=plain, capture_output=True, text=True, check=True)
    assert (said.stdout.strip(), said.stderr) == ("error", "")
