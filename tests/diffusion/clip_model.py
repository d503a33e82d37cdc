"""A CLIP with random weights, as a folder."""

import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from diffusion.runtime.seeds import seeded_weights


def save_clip(folder, scale: float = 1.0, gain: float = 1.0):
    """``scale``: log of what similarities are multiplied by; ``gain``: of what is seen of images over how it begins."""
    vocab = {letter: k for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    vocab |= {letter + "</w>": 26 + k for k, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    vocab |= {"<|startoftext|>": 52, "<|endoftext|>": 53}
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 54, "max_position_embeddings": 20, "bos_token_id": 52, "eos_token_id": 53},
        vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    with seeded_weights(0):
        model = CLIPModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(scale)
        for name, weight in model.vision_model.named_parameters():
            if weight.ndim > 1 and name.endswith("weight"):
                weight.mul_(gain)
    model.save_pretrained(folder)
    CLIPTokenizer(vocab=vocab, merges=[], model_max_length=20).save_pretrained(folder)
    return folder
