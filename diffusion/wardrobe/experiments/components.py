"""The parts of the ``wardrobe`` pipeline before training: sizes, tokenizer, VAE, UNet.

Stock diffusers and transformers classes built from configs, so the result is an ordinary ``StableDiffusionPipeline``
and no code here is needed to load or run it. Noise schedule and text encoder are those of ``digits``.
"""

from __future__ import annotations

import json
from typing import Any

from diffusers import AutoencoderKL, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from diffusion.digits.experiments.components import MAX_TOKENS, TEXT_WIDTH
from diffusion.wardrobe.captions import every_caption

LATENT_CHANNELS = 8


def build_tokenizer() -> CLIPTokenizer:
    """Byte-level BPE in CLIP's form, trained until every word of the known captions is one token.

    All 256 bytes stay in the vocabulary, so any other word is spelled out rather than lost.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe: Any = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Lowercase()
    # CLIP's own way to cut text into words: letters, single digits, runs of anything else ("t-shirt" is three words).
    words = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, show_progress=False, initial_alphabet=alphabet, end_of_word_suffix="</w>"
    )
    bpe.train_from_iterator(every_caption(), trainer)
    trained = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in trained["merges"]]
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + [left + right for left, right in merges]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_vae() -> AutoencoderKL:
    """32x32x3 images to 8x8x8 latents; narrow at full size and without attention, which cost most."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=LATENT_CHANNELS,
        sample_size=32,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )


def build_unet() -> UNet2DConditionModel:
    """3.9 M parameters; cross-attention in the lower (4x4) block only, where it costs least."""
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=1,
        block_out_channels=(64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # diffusers' name for the number of heads; few and wide are much faster on a CPU
        norm_num_groups=16,
    )
