"""Models, images and brief corrections for what the command line does to a whole task."""

from functools import partial

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("typer")
from diffusers import DDPMPipeline

from diffusion import methods
from diffusion.evaluation import benchmark as bench
from tests.diffusion import families
from tests.diffusion.cli.commands import SETTINGS
from tests.diffusion.families import build
from tests.diffusion.methods.conftest import BRIEF, made


@pytest.fixture(scope="module")
def quick():
    """Brief corrections: what only tests want has no options."""
    brief = {name: made(name) for name in ("tilted", "guidance")}
    with pytest.MonkeyPatch.context() as patch:
        for module in (methods, bench):
            patch.setattr(module, "corrected_guidance", partial(methods.corrected_guidance, correction=BRIEF))
        for name, method in brief.items():
            patch.setitem(methods.METHODS, name, lambda method=method: method)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    build(families.sd).save_pretrained(folder / "sd")
    build(lambda: families.ddpm(DDPMPipeline)).save_pretrained(folder / "ddpm")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for j in range(12):
        values = rng.integers(180, 256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / "images" / f"{j}.png")
    (folder / "small.yaml").write_text(SETTINGS, encoding="utf-8")
    (folder / "words.txt").write_text("one\ntwo\n\nthe digit 3 in ink\n", encoding="utf-8")
    return folder
