"""Tokens of textual inversion: read as stock pipelines read them, part of the law, named in the card."""

import copy

import pytest
import torch
from safetensors.torch import save_file

import diffusion
from diffusion.api import open_denoiser
from diffusion.pipelines import denoiser_of
from diffusion.pipelines.fingerprint import fingerprint
from diffusion.pipelines.law import under
from diffusion.pipelines.sampling import sample_latents
from diffusion.pipelines.textual_inversion import load_tokens, tokens_of
from diffusion.reports.base_model import base_of
from diffusion.tasks.config import RuntimeConfig
from diffusion.tasks.sampling import Sampling
from tests.diffusion import families
from tests.diffusion.families import build

WORDS = ("seven", "three")


def vectors_of(encoder, tokenizer, words=WORDS):
    """The vectors that a text encoder has for words of one token each."""
    (rows,) = tokenizer(" ".join(words), add_special_tokens=False, return_tensors="pt").input_ids
    assert len(rows) == len(words)
    return encoder.get_input_embeddings().weight.detach()[rows].clone()


def file_for(pipeline, path, words=WORDS):
    """A file whose token says, in two vectors, what two words say."""
    if hasattr(pipeline, "text_encoder_2"):
        tensors = {
            "clip_l": vectors_of(pipeline.text_encoder, pipeline.tokenizer, words),
            "clip_g": vectors_of(pipeline.text_encoder_2, pipeline.tokenizer_2, words),
        }
    else:
        tensors = {"<x>": vectors_of(pipeline.text_encoder, pipeline.tokenizer, words)}
    save_file(tensors, path)
    return path


@pytest.mark.parametrize("words", [WORDS, WORDS[:1]], ids=["two vectors", "one vector"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_token_says_what_its_vectors_say(family, words, tmp_path):
    """With the vectors of words, a prompt of the token is the prompt of these words, place by place."""
    make = families.FAMILIES[family]
    pipeline = build(make)
    if family == "sdxl":
        pipeline.tokenizer_2 = copy.deepcopy(pipeline.tokenizer_2)  # as loaded ones: not one for both encoders
    before = denoiser_of(pipeline).condition([f"a {' '.join(words)} here", "a one"])
    load_tokens(pipeline, [f"<x>={file_for(pipeline, tmp_path / 'x.safetensors', words)}"])
    found = denoiser_of(pipeline).condition(["a <x> here", "a one"])
    for name in denoiser_of(pipeline).prompt_inputs:
        torch.testing.assert_close(found[name], before[name], rtol=1e-5, atol=1e-6)
    other = denoiser_of(pipeline).condition(["a here"])
    assert not torch.allclose(other["encoder_hidden_states"], before["encoder_hidden_states"][:1], atol=1e-4)
    if len(words) > 1:  # the first vector alone is another prompt: a token is never cut
        first = denoiser_of(build(make)).condition([f"a {words[0]} here"])
        assert not torch.allclose(first["encoder_hidden_states"], found["encoder_hidden_states"][:1], atol=1e-4)


def test_it_is_what_stock_diffusers_reads_and_samples(tmp_path):
    file = tmp_path / "cat-toy.safetensors"
    generator = torch.Generator().manual_seed(0)
    save_file({"<cat-toy>": torch.randn(3, families.WIDTH, generator=generator)}, file)
    stock, ours = build(families.sd), build(families.sd)
    stock.load_textual_inversion(str(file))
    load_tokens(ours, [str(file)])
    assert tokens_of(ours)[0].token == "<cat-toy>"
    for prompt in ("<cat-toy>", "one <cat-toy> seven"):
        assert torch.equal(
            stock.encode_prompt(prompt, "cpu", 1, False)[0],
            denoiser_of(ours).condition([prompt])["encoder_hidden_states"],
        )
        assert torch.equal(*(sample_latents(some, [prompt], seed=0, steps=2) for some in (stock, ours)))
    plain = sample_latents(build(families.sd), ["<cat-toy>"], seed=0, steps=2)
    assert not torch.allclose(plain, sample_latents(ours, ["<cat-toy>"], seed=0, steps=2), atol=1e-4)


def test_tokens_are_part_of_the_fingerprint(tmp_path):
    found = [fingerprint(build(families.sd))]
    for index in range(2):
        for name in ("<x>", "<y>"):
            generator = torch.Generator().manual_seed(index)
            save_file({name: torch.randn(2, families.WIDTH, generator=generator)}, tmp_path / "x.safetensors")
            pipeline = build(families.sd)
            load_tokens(pipeline, [str(tmp_path / "x.safetensors")])
            found.append(fingerprint(pipeline))
    assert len(set(found)) == 5  # every token and every vector makes another law


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_the_card_loads_it_by_diffusers_alone(family, tmp_path):
    model = tmp_path / "model"
    build(families.FAMILIES[family]).save_pretrained(model)
    file = file_for(build(families.FAMILIES[family]), tmp_path / "toy.safetensors")
    denoiser = open_denoiser(str(model), RuntimeConfig(textual_inversion=(f"<toy>={file}",)))
    denoiser = under(denoiser, size=denoiser.size)  # a view of the pipeline has its tokens
    lines = base_of(denoiser).snippet(False, "a <toy>", Sampling(num_inference_steps=2))
    head = [line for line in lines if "load_lora" not in line and not line.startswith("image")]
    names = {}
    exec("\n".join(head), names)
    one, other = denoiser.condition(["a <toy>"]), denoiser_of(names["pipeline"]).condition(["a <toy>"])
    assert torch.equal(one["encoder_hidden_states"], other["encoder_hidden_states"])
    without = [line for line in head if "load_textual_inversion" not in line]
    exec("\n".join(without), names)
    other = denoiser_of(names["pipeline"]).condition(["a <toy>"])
    assert not torch.allclose(one["encoder_hidden_states"][:, :4], other["encoder_hidden_states"][:, :4], atol=1e-4)


def test_what_does_not_fit_is_refused_and_nothing_is_changed(tmp_path):
    pipeline = build(families.sd)
    before = fingerprint(pipeline)
    good = tmp_path / "good.safetensors"
    save_file({"<x>": torch.randn(2, families.WIDTH, generator=torch.Generator().manual_seed(0))}, good)

    def bad(tensors, name="bad"):
        save_file(tensors, tmp_path / f"{name}.safetensors")
        return str(tmp_path / f"{name}.safetensors")

    (tmp_path / "empty.safetensors").write_bytes(b"{}")
    (tmp_path / "pickle.pt").write_bytes(b"x")
    nan = torch.full((1, families.WIDTH), float("nan"))
    for given, words in (
        ("nothing.safetensors", "is no file"),
        (str(tmp_path / "pickle.pt"), "other formats may run code"),
        (str(tmp_path / "empty.safetensors"), "cannot be read"),
        (bad({"<z>": torch.zeros(2, 7)}), "must hold vectors of 16 numbers"),
        (bad({"a": torch.zeros(16), "b": torch.zeros(16)}, "two"), "must hold one tensor"),
        (bad({"clip_l": torch.zeros(16), "clip_g": torch.zeros(16)}, "xl"), "must hold one tensor"),
        (bad({"<z>": nan}, "nan"), "not finite"),
        (f"one={good}", "'one' is a token already"),
        (f"two words={good}", "a token must be one word"),
    ):
        with pytest.raises(ValueError, match=words):
            load_tokens(pipeline, [str(good), given])
        assert fingerprint(pipeline) == before
    with pytest.raises(ValueError, match="the token '<x>' is given twice"):
        load_tokens(pipeline, [str(good), str(good)])
    with pytest.raises(ValueError, match="must hold a tensor for each text encoder, clip_l and clip_g"):
        load_tokens(build(families.sdxl), [str(good)])
    for other in (families.ddpm, families.sd3, families.flux):
        with pytest.raises(ValueError, match="takes no such tokens here; StableDiffusionPipeline and"):
            load_tokens(build(other), [str(good)])
    assert fingerprint(pipeline) == before
    assert tokens_of(pipeline) == ()
    load_tokens(pipeline, [str(good)])
    with pytest.raises(ValueError, match="'<x>' is a token already"):
        load_tokens(pipeline, [str(good)])


def test_names_without_a_token_are_the_file_s(tmp_path):
    save_file({"emb_params": torch.zeros(1, families.WIDTH)}, tmp_path / "easynegative.safetensors")
    pipeline = build(families.sd)
    load_tokens(pipeline, [str(tmp_path / "easynegative.safetensors")])
    assert [each.token for each in tokens_of(pipeline)] == ["easynegative"]


def test_a_pipeline_that_is_given_is_left_as_it_is(tmp_path):
    task = diffusion.ConceptTask(concepts=["seven"], levels=["1%"])
    config = diffusion.Config(runtime={"textual_inversion": ["x.safetensors"]})
    with pytest.raises(ValueError, match="load it into the pipeline that is given"):
        diffusion.unlearn(build(families.sd), task, config)
