"""A tiny pipeline of every supported family: the real classes with random weights, built from configs."""

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from diffusion.digits.experiments.components import build_tokenizer

WIDTH = 16


def vae(channels=4, **more):
    return AutoencoderKL(
        latent_channels=channels,
        sample_size=16,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        **more,
    ).eval()


def text_encoder(tokenizer, kind=CLIPTextModel, width=WIDTH):
    return kind(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()


def ddpm(kind=DDPMPipeline, channels=3, **scheduler):
    unet = UNet2DModel(
        sample_size=16,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    ).eval()
    table = DDIMScheduler if kind is DDIMPipeline else DDPMScheduler
    return kind(unet=unet, scheduler=table(**scheduler))


def _unet(channels, **more):
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    ).eval()


def sd(prediction="epsilon"):
    tokenizer = build_tokenizer()
    return StableDiffusionPipeline(
        vae=vae(scaling_factor=0.3),
        text_encoder=text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=_unet(4, cross_attention_dim=WIDTH),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl():
    tokenizer = build_tokenizer()
    unet = _unet(
        4,
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        use_linear_projection=True,
    )
    return StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.5, latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0]),
        text_encoder=text_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder(tokenizer, CLIPTextModelWithProjection),
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", timestep_spacing="leading", steps_offset=1, interpolation_type="linear"
        ),
        add_watermarker=False,
    )


def sd3(shift=3.0, height_of_two=8):
    tokenizer = build_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=8,
    ).eval()
    return StableDiffusion3Pipeline(
        vae=vae(scaling_factor=1.5, shift_factor=0.06),
        text_encoder=text_encoder(tokenizer, CLIPTextModelWithProjection),
        tokenizer=tokenizer,
        text_encoder_2=text_encoder(tokenizer, CLIPTextModelWithProjection),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
    )


def flux(guidance=True):
    from diffusers import FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer = build_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=2,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance,
    ).eval()
    words = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    ).eval()
    pipeline = FluxPipeline(
        vae=vae(scaling_factor=0.4, shift_factor=0.1),
        text_encoder=text_encoder(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=words,
        tokenizer_2=tokenizer,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=guidance),
    )
    pipeline.default_sample_size = 8  # the published one is 128, for every network
    return pipeline


def dit(variance=True, classes=1000, names=True, **scheduler):
    from diffusers import DiTPipeline, DiTTransformer2DModel

    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8 if variance else 4,
        num_layers=3,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=classes,
        norm_elementwise_affine=False,
    ).eval()
    labels = {0: "tench, Tinca tinca", 1: "goldfish", 207: "golden retriever"} if names else None
    return DiTPipeline(
        transformer=transformer, vae=vae(scaling_factor=0.4), scheduler=DDIMScheduler(**scheduler), id2label=labels
    )


FAMILIES = {"ddpm": ddpm, "sd": sd, "sdxl": sdxl, "sd3": sd3}


def build(make, seed=0):
    """A pipeline of random weights that depend on ``seed`` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipeline = make()
        # Networks start with zero layers (an output that says nothing, gates that shut): give every weight a value.
        network = pipeline.components.get("transformer") or pipeline.unet
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
