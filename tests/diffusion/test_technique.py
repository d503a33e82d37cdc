"""A result as a technique of eval-unlearn: found by its entry point, images by seed, the fit put in."""

import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")

import duality as du
from diffusion.technique import UnlearnedTechnique
from tests.diffusion import families
from tests.diffusion.families import build
from tests.diffusion.jobs import UNMEASURED, unlearn
from tests.diffusion.workflows.test_concepts import TASK, quiet

pytestmark = pytest.mark.filterwarnings("ignore::duality.FewDrawsWarning")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model in a folder, and a result of it that has changed it."""
    folder = tmp_path_factory.mktemp("technique")
    build(families.sd).save_pretrained(folder / "model")
    job = UNMEASURED | {"fit": UNMEASURED["fit"].but(max_train_steps=6, learning_rate=0.2)}
    unlearn(str(folder / "model"), ["seven"], du.ReverseKL(0.3), **TASK, **job, bar=quiet, output=folder / "out")
    return folder


def array(image):
    return np.asarray(image, dtype=np.int64)


def test_the_entry_point_names_the_class_with_the_protocol():
    data = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    module, name = data["project"]["entry-points"]["eval_unlearn.techniques"]["duality"].split(":")
    assert getattr(import_module(module), name) is UnlearnedTechnique


def test_images_by_seed_whatever_stands_beside(place):
    technique = UnlearnedTechnique(result=str(place / "out"), erase_concept="seven")
    assert technique.sampling.num_inference_steps == 2  # the result's
    one, two = technique.generate(["seven", "one"], seed=5)
    assert one.size == technique.denoiser.size[::-1]
    np.testing.assert_array_equal(array(two), array(technique.generate(["one"], seed=6)[0]))
    assert np.abs(array(two) - array(technique.generate(["one"], seed=7)[0])).max() > 0
    assert len(technique.generate(["seven"])) == 1


def test_the_fit_is_in_it_and_settings_go_over_the_results(place):
    technique = UnlearnedTechnique(result=str(place / "out"), num_inference_steps=3, guidance_scale=2.0)
    assert (technique.sampling.num_inference_steps, technique.sampling.guidance_scale) == (3, 2.0)
    image = array(technique.generate(["seven"], seed=1)[0])
    base = build(families.sd)
    import torch

    plain = base("seven", generator=torch.Generator().manual_seed(1), num_inference_steps=3, guidance_scale=2.0)
    assert np.abs(image - array(plain.images[0])).max() > 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"result": "/no/such"}, "result must be the folder"),
        ({}, "result must be the folder of a result, got ''"),
        ({"train_steps": 3}, "train_steps: the technique takes result"),
    ],
)
def test_what_is_no_result_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        UnlearnedTechnique(**change)


def test_a_folder_that_names_no_model_needs_one(tmp_path):
    with pytest.raises(ValueError, match="model_id must be given"):
        UnlearnedTechnique(result=str(tmp_path))
    with pytest.raises(ValueError, match="does not fit the model"):
        UnlearnedTechnique(result=str(tmp_path), model_id="digits")
