"""Folders on disk: every family loads and samples the same; pickles and code that comes with a model are refused."""

import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler, FlowMatchHeunDiscreteScheduler

from diffusion.guidance.guided import Guided, constant
from diffusion.pipelines import denoiser_of, load_pipeline
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.sampling import sample_latents
from tests.diffusion import families
from tests.diffusion.families import FAMILIES, build
from tests.diffusion.pipelines.test_families import PROMPTS, asked, classifier_for


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_saved_pipeline_loads_and_samples_the_same(family, tmp_path):
    pipeline = build(FAMILIES[family])
    pipeline.save_pretrained(tmp_path)
    again = load_pipeline(str(tmp_path))
    prompts = asked(denoiser_of(pipeline), "seven", "")
    for name in {"unet", "vae"} & set(pipeline.components):  # sums in the order of the other layout differ by rounding
        getattr(pipeline, name).to(memory_format=torch.channels_last)
    first, second = (sample_latents(some, prompts, seed=3, steps=2) for some in (pipeline, again))
    assert torch.equal(first, second)
    assert fingerprint(again) == fingerprint(load_pipeline(str(tmp_path)))
    assert fingerprint(pipeline) != fingerprint(build(FAMILIES[family], seed=1))


@pytest.mark.parametrize(
    ("component", "safe", "pickled"),
    [
        ("unet", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ("text_encoder", "model.safetensors", "pytorch_model.bin"),
    ],
)
def test_pickles_are_refused(tmp_path, component, safe, pickled):
    pipeline = build(families.sd)
    pipeline.save_pretrained(tmp_path)
    torch.save(getattr(pipeline, component).state_dict(), tmp_path / component / pickled)
    (tmp_path / component / safe).unlink()
    with pytest.raises(ValueError, match="could not be loaded"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize("what", ["pipeline", "component"])
def test_code_that_comes_with_a_model_is_not_run(tmp_path, what):
    folder, marker = tmp_path / "model", tmp_path / "ran"
    build(families.sd).save_pretrained(folder)
    code = f"open({str(marker)!r}, 'w').close()\nfrom diffusers import *\n"
    index = json.loads((folder / "model_index.json").read_text())
    if what == "pipeline":
        index["_class_name"] = ["mine", "Mine"]
        (folder / "mine.py").write_text(code + "class Mine(StableDiffusionPipeline):\n    pass\n")
    else:
        index["unet"] = ["mine", "Mine"]
        (folder / "unet" / "mine.py").write_text(code + "class Mine(UNet2DConditionModel):\n    pass\n")
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="could not be loaded"):
        load_pipeline(str(folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("", "is no JSON"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "must hold an object, not \\[\\]"),
        ('"digits"', "must hold an object"),
        ("null", "must hold an object"),
        ("{}", "_class_name in model_index.json must name a pipeline, not null"),
        ('{"_class_name": 7}', "must name a pipeline, not 7"),
        ('{"_class_name": ["a", 7]}', "must name a pipeline"),
        ('{"_class_name": "NoSuchPipeline"}', "NoSuchPipeline"),
        ('{"_class_name": "StableDiffusionPipeline", "unet": "UNet2DConditionModel"}', "could not be loaded"),
        ('{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers"]}', r"unet .* must be \[library, class\]"),
        ('{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", 7]}', r"unet .* must be \[library, class\]"),
        ('{"_class_name": "StableDiffusionPipeline", "unet": {"a": 1}}', r"unet .* must be \[library, class\]"),
        ('{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "NoSuchModel"]}', "could not be loaded"),
        ('{"_class_name": "StableDiffusionPipeline", "unet": ["no_such_library", "UNet"]}', "could not be loaded"),
        ('{"_class_name": "StableDiffusionPipeline"}', "could not be loaded"),
    ],
)
def test_an_index_of_another_shape_is_one_line_with_the_reason(tmp_path, index, words):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=words) as refused:
        load_pipeline(str(tmp_path))
    assert str(refused.value).startswith(f"model {str(tmp_path)!r} could not be loaded: ")
    assert "\n" not in str(refused.value)


def test_an_index_of_bytes_is_one_line_with_the_reason(tmp_path):
    (tmp_path / "model_index.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no JSON"):
        load_pipeline(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "scheduler"),
    [
        ("ddpm", DPMSolverMultistepScheduler),
        ("sd", EulerAncestralDiscreteScheduler),
        ("sdxl", DPMSolverMultistepScheduler),
        ("sd3", FlowMatchHeunDiscreteScheduler),
    ],
)
def test_guidance_inside_other_stock_samplers(family, scheduler):
    pipeline = build(FAMILIES[family])
    pipeline.scheduler = scheduler.from_config(pipeline.scheduler.config)
    denoiser = denoiser_of(pipeline)
    prompts = PROMPTS if denoiser.prompt_inputs else None
    some = asked(denoiser, "one", "seven")
    with Guided(denoiser, prompts, classifier_for(denoiser), constant(0.3)) as guided:
        out = sample_latents(
            pipeline, some, seed=2, steps=4, **({"guidance_scale": 3.0} if denoiser.prompt_inputs else {})
        )
    assert torch.isfinite(out).all()
    assert len(guided.trace.steps) >= 4
    levels = [t for t, _, _ in guided.trace.steps]
    assert levels == sorted(levels, reverse=True)
    assert 0 <= levels[-1] < levels[0] < denoiser.levels


def test_a_folder_of_one_variant_is_read_by_it(tmp_path):
    pipeline = build(families.sd)
    pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    assert fingerprint(load_pipeline(str(tmp_path / "half"))) == fingerprint(
        load_pipeline(str(saved(pipeline, tmp_path)))
    )
    both = tmp_path / "both"
    pipeline.save_pretrained(both)
    build(families.sd, seed=1).save_pretrained(both, variant="fp16")
    other = load_pipeline(str(both), variant="fp16")
    assert fingerprint(load_pipeline(str(both))) != fingerprint(other)  # left out, the files without a name
    with pytest.raises(ValueError, match="could not be loaded"):
        load_pipeline(str(both), variant="bf16")


def test_shards_of_one_variant(tmp_path):
    build(families.sd).save_pretrained(tmp_path, max_shard_size="20KB", variant="fp16")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    assert denoiser_of(load_pipeline(str(tmp_path))).component == "unet"


def saved(pipeline, folder):
    pipeline.save_pretrained(folder / "plain")
    return folder / "plain"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision(tmp_path, dtype):
    build(families.sd).save_pretrained(tmp_path)
    pipeline = load_pipeline(str(tmp_path), dtype)
    assert {p.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters()} == {
        dtype
    }


def test_a_single_file_is_read_or_refused_by_its_contents(tmp_path, monkeypatch):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from safetensors.torch import save_file

    read = []
    for kind in (StableDiffusionPipeline, StableDiffusionXLPipeline):
        monkeypatch.setattr(
            kind,
            "from_single_file",
            classmethod(lambda cls, path, **more: (read.append((cls.__name__, more)), build(families.sd))[1]),
        )
    first = "model.diffusion_model.input_blocks.0.0.weight"
    later = "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias"
    save_file({first: torch.zeros(4, 4, 3, 3)}, tmp_path / "one.safetensors")
    save_file({first: torch.zeros(4, 4, 3, 3), later: torch.zeros(1)}, tmp_path / "xl.safetensors")
    for name in ("one", "xl"):
        load_pipeline(str(tmp_path / f"{name}.safetensors"), torch.bfloat16)
    assert read == [
        ("StableDiffusionPipeline", {"torch_dtype": torch.bfloat16}),
        ("StableDiffusionXLPipeline", {"torch_dtype": torch.bfloat16}),
    ]
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="holds no tensors of a whole checkpoint's network"):
        load_pipeline(str(tmp_path / "lora.safetensors"))
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        load_pipeline(str(tmp_path / "old.ckpt"))
    (tmp_path / "torn.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ValueError, match="could not be loaded"):
        load_pipeline(str(tmp_path / "torn.safetensors"))


def test_a_device_that_is_not_there_is_named():
    from diffusion.api import open_denoiser
    from diffusion.tasks.config import RuntimeConfig

    for name in ("tpu9", "meta"):
        with pytest.raises(ValueError, match=f"device '{name}' cannot be used"):
            open_denoiser("digits", RuntimeConfig(device=name))
    denoiser = open_denoiser("digits", RuntimeConfig(device="cpu", dtype="bfloat16"))
    assert denoiser.network.dtype == torch.bfloat16
