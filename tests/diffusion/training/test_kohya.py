"""A LoRA under kohya's names: stock diffusers reads it back as the same network; what has no names is refused."""

import json

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from diffusion.pipelines import denoiser_of
from diffusion.pipelines.fitted import put_in
from diffusion.runtime.seeds import seeded_weights
from diffusion.training.kohya import METADATA, alpha_of, export_kohya, kohya_tensors
from diffusion.training.lora import ADAPTER, add_student, save_student
from tests.diffusion import families
from tests.diffusion.families import build

FILE = "pytorch_lora_weights.safetensors"


def noisy(parameters):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def saved(folder, family="sd", rank=2, **config):
    """A LoRA in a folder by the project's own writer; ``config``: of peft's settings, others than ours."""
    denoiser = denoiser_of(build(families.FAMILIES[family] if family != "flux" else families.flux))
    if config:
        with seeded_weights(0):
            settings = {"r": rank, "target_modules": list(denoiser.lora_targets)} | config
            denoiser.network.add_adapter(LoraConfig(**settings), ADAPTER)
        noisy(p for name, p in denoiser.network.named_parameters() if "lora_" in name)
    else:
        noisy(add_student(denoiser, rank, 0))
    save_student(denoiser, folder)
    return denoiser


def said(pipeline):
    denoiser = denoiser_of(pipeline)
    x = torch.randn(2, *denoiser.sample_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return denoiser.predict(x, torch.tensor([100, 700]), denoiser.condition(["one", "seven"]))


CONFIGS = {
    "as fitted": {},
    "another alpha": {"lora_alpha": 7},
    "alphas by layer": {"lora_alpha": 3, "alpha_pattern": {"to_q": 5, "conv1": 11}, "rank_pattern": {"to_k": 3}},
    "rank-stabilised": {"lora_alpha": 4, "use_rslora": True},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_stock_diffusers_reads_back_the_same_network(family, name, tmp_path):
    """The same factors and numbers in the same sums. A root of the rank, and a ratio of alphas, are rounded once: 2^-24
    of what they multiply, through a dozen layers."""
    fitted = said(saved(tmp_path / "fit", family, **CONFIGS[name]).pipeline)
    layers = export_kohya(tmp_path / "fit", tmp_path / "kohya.safetensors")
    assert 2 * layers == len(load_file(tmp_path / "fit" / FILE))
    stock = build(families.FAMILIES[family])
    plain = said(stock)
    stock.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    found = said(stock)
    if name in ("alphas by layer", "rank-stabilised"):
        torch.testing.assert_close(found, fitted, rtol=0, atol=1e-5 * float(fitted.abs().max()))
    else:
        assert torch.equal(found, fitted)
    assert float((found - plain).abs().max()) > 1e-2 * float(plain.abs().max())


def test_alpha_is_kept_and_a_wrong_one_would_be_seen(tmp_path):
    """diffusers' converter takes alpha to be the rank; here it is 7 for rank 2, and with 2 it is another network."""
    fitted = said(saved(tmp_path / "fit", lora_alpha=7).pipeline)
    export_kohya(tmp_path / "fit", tmp_path / "kohya.safetensors")
    tensors = load_file(tmp_path / "kohya.safetensors")
    alphas = {name for name in tensors if name.endswith(".alpha")}
    assert {float(tensors[name]) for name in alphas} == {7.0}
    assert all(name.startswith("lora_unet_") for name in tensors)
    save_file({k: torch.tensor(2.0) if k in alphas else v for k, v in tensors.items()}, tmp_path / "wrong.safetensors")
    stock = build(families.sd)
    stock.load_lora_weights(tmp_path, weight_name="wrong.safetensors")
    assert not torch.allclose(said(stock), fitted, rtol=1e-3, atol=1e-3 * float(fitted.abs().max()))


def test_half_precision_is_delivered_as_it_was_saved(tmp_path):
    denoiser = denoiser_of(build(families.sd).to(torch.bfloat16))
    parameters = add_student(denoiser, 2, 0)
    noisy(parameters)
    for parameter in parameters:
        parameter.data = parameter.data.bfloat16()
    save_student(denoiser, tmp_path)
    export_kohya(tmp_path, tmp_path / "kohya.safetensors")
    stock = build(families.sd).to(torch.bfloat16)
    stock.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    assert torch.equal(said(stock), said(denoiser.pipeline))


def test_beside_the_result_the_result_is_still_what_is_loaded(tmp_path):
    """`load_lora_weights(folder)` and ours take the file of diffusers' name, whatever lies beside it."""
    fitted = said(saved(tmp_path).pipeline)
    export_kohya(tmp_path, tmp_path / "kohya.safetensors")
    stock = build(families.sd)
    stock.load_lora_weights(tmp_path)
    assert torch.equal(said(stock), fitted)
    ours = denoiser_of(build(families.sd))
    put_in(ours, tmp_path)
    torch.testing.assert_close(said(ours.pipeline), fitted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoders_have_the_names_that_readers_know(prefix):
    """As LoRAs name their layers with transformers 5, and before it."""
    layer = f"{prefix}encoder.layers.3.self_attn.q_proj"
    factors = {"lora_A.weight": torch.ones(2, 5), "lora_B.weight": torch.ones(5, 2)}
    tensors = {f"text_encoder.{layer}.{end}": value for end, value in factors.items()}
    tensors |= {f"text_encoder_2.text_model.encoder.layers.0.mlp.fc1.{end}": value for end, value in factors.items()}
    found = kohya_tensors(tensors, {"text_encoder.lora_alpha": 4.0})
    first, second = (
        "lora_te1_text_model_encoder_layers_3_self_attn_q_proj",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1",
    )
    ends = ("lora_down.weight", "lora_up.weight", "alpha")
    assert set(found) == {f"{name}.{end}" for name in (first, second) for end in ends}
    assert float(found[f"{first}.alpha"]) == 4.0
    assert float(found[f"{second}.alpha"]) == 2.0  # nobody said: the rank


def test_alpha_of_a_layer_is_peft_s():
    settings = {"unet.lora_alpha": 3, "unet.alpha_pattern": {"to_q": 5, r"down_blocks\.0\..*": 6}, "unet.r": 2}
    assert alpha_of("unet.up_blocks.0.attn1.to_q", 2, settings) == 5
    assert alpha_of("unet.down_blocks.0.attn1.to_k", 2, settings) == 6
    assert alpha_of("unet.up_blocks.0.attn1.to_k", 2, settings) == 3
    assert alpha_of("text_encoder.encoder.to_k", 2, settings) == 2


@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("sd3", "names are known for .* 'transformer."),
        ("flux", "names are known for .* 'transformer."),
        ("ddpm", "peft"),
    ],
)
def test_other_families_have_no_names(family, words, tmp_path):
    saved(tmp_path / "fit", family)
    with pytest.raises(ValueError, match=words):
        export_kohya(tmp_path / "fit", tmp_path / "kohya.safetensors")
    assert [each.name for each in tmp_path.iterdir()] == ["fit"]


def test_what_is_no_plain_lora_is_refused(tmp_path):
    place = tmp_path / "kohya.safetensors"
    with pytest.raises(ValueError, match="holds no LoRA"):
        export_kohya(tmp_path, place)
    saved(tmp_path / "all", rank=None)
    with pytest.raises(ValueError, match="holds all weights of a network"):
        export_kohya(tmp_path / "all", place)
    saved(tmp_path / "dora", use_dora=True)
    with pytest.raises(ValueError, match=r"names are known for the factors .*lora_magnitude_vector"):
        export_kohya(tmp_path / "dora", place)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / FILE).write_bytes(b"{}")
    with pytest.raises(ValueError, match="cannot be read"):
        export_kohya(tmp_path / "broken", place)
    with pytest.raises(ValueError, match="it is empty"):
        kohya_tensors({}, {})
    factors = {"unet.a.to_q.lora_A.weight": torch.ones(2, 5), "unet.a.to_q.lora_B.weight": torch.ones(5, 2)}
    with pytest.raises(ValueError, match=r"trained with unet\.use_qalora"):
        kohya_tensors(factors, {"unet.use_qalora": True})
    assert not place.exists()


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    saved(tmp_path / "fit")
    place = tmp_path / "kohya.safetensors"
    place.write_text("before")

    def full(_tensors, path, metadata=None):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"kohya\.safetensors could not be written"):
        export_kohya(tmp_path / "fit", place)
    assert place.read_text() == "before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["fit", "kohya.safetensors"]


def test_the_file_names_no_version_of_stable_diffusion(tmp_path):
    """A1111 would take a file with any other metadata for one of Stable Diffusion 1, and hide it from SDXL."""
    from safetensors import safe_open

    saved(tmp_path, "sdxl")
    export_kohya(tmp_path, tmp_path / "kohya.safetensors")
    with safe_open(tmp_path / "kohya.safetensors", "pt") as file:
        assert not file.metadata()
    with safe_open(tmp_path / FILE, "pt") as file:
        assert json.loads(file.metadata()[METADATA])["unet.lora_alpha"] == 2


def test_half_a_layer_is_refused():
    with pytest.raises(ValueError, match=r"and no 'unet\.a\.to_q\.lora_B\.weight'"):
        kohya_tensors({"unet.a.to_q.lora_A.weight": torch.ones(2, 5)}, {})
