"""Folders of images and the prompts beside them."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny, DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image, ImageOps

from diffusion.pipelines.images import gather, read_folder, read_images
from diffusion.pipelines.latents import decode, encode
from diffusion.reports.figures import save_each, save_images
from tests.diffusion import families
from tests.diffusion.families import build


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.jpg"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_pictures_by_name_without_prompts(folder):
    images, prompts = read_folder(folder, "data")
    assert [path.name for path in images] == ["a.jpg", "b.png"]
    assert prompts is None
    assert gather([folder, folder / "b.png"], "data", "a dog")[1] == ["a dog"] * 3
    assert gather([folder], "data", None)[1] == ["", ""]


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_prompts_of_a_table(folder, table):
    rows = {
        "metadata.jsonl": '{"file_name": "b.png", "text": "two, dogs"}\n\n{"file_name": "a.jpg", "text": "a cat"}\n',
        "metadata.csv": 'file_name,text\nb.png,"two, dogs"\na.jpg,a cat\n',
    }
    (folder / table).write_text(rows[table])
    assert read_folder(folder, "data")[1] == ["a cat", "two, dogs"]
    with pytest.raises(ValueError, match="prompts of its own"):
        gather([folder], "image", "a dog")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"file_name": "b.png", "text": "x"}', "no row .* 'a.jpg'"),
        ('{"file_name": "b.png"}', "rows with file_name and text"),
        ("[1]", "rows with file_name and text"),
        ("{", "rows with file_name and text"),
    ],
)
def test_tables_that_cannot_work(folder, text, message):
    (folder / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_folder(folder, "data")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"image .*none.* neither a file nor a folder"):
        read_folder(tmp_path / "none", "image")
    with pytest.raises(ValueError, match=r"held-out folder .* holds no images"):
        read_folder(tmp_path, "held-out")


def test_hidden_files_are_no_images_and_what_is_left_out_is_said(folder, capsys):
    (folder / "._a.jpg").write_bytes(b"\x00\x05\x16\x07 AppleDouble")
    (folder / "c.heic").write_bytes(b"")
    (folder / "inside").mkdir()
    Image.new("RGB", (2, 2)).save(folder / "inside" / "d.png")
    (folder / "inside" / "._d.png").write_bytes(b"")
    Image.new("RGB", (2, 2)).save(folder / "e.jfif", format="JPEG")
    images, _ = read_folder(folder, "data")
    assert [path.name for path in images] == ["a.jpg", "b.png", "e.jfif"]
    said = capsys.readouterr().err
    assert "1 images that Pillow does not read are left out, 'c.heic' first" in said
    assert "1 images in folders inside of it are left out" in said
    assert "d.png" in said


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_images_are_read_as_a_viewer_shows_them(tmp_path, turn, suffix):
    """A square image passes every check, turned as well: only its pixels tell."""
    pipeline = build(families.sd)
    values = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(values).save(tmp_path / f"a.{suffix}", exif=exif, quality=100)
    read = read_images(pipeline, [tmp_path / f"a.{suffix}"])[0]
    with Image.open(tmp_path / f"a.{suffix}") as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float32)
        as_stored = np.asarray(image.convert("RGB"), np.float32)
    found = (read.permute(1, 2, 0).numpy() + 1) * 127.5
    np.testing.assert_allclose(found, shown, atol=1e-4)
    assert (np.abs(found - as_stored).max() > 1) == (turn != 1)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
def test_models_of_any_number_of_channels(tmp_path, channels, mode):
    def make():
        unet = UNet2DModel(
            sample_size=16,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
        )
        return DDPMPipeline(unet=unet.eval(), scheduler=DDPMScheduler())

    pipeline = build(make)
    values = np.random.default_rng(0).integers(0, 255, (16, 16, channels), dtype=np.uint8)
    Image.fromarray(values.squeeze()).save(tmp_path / "a.png")
    read = read_images(pipeline, [tmp_path / "a.png"])
    np.testing.assert_allclose((read[0].permute(1, 2, 0).numpy() + 1) * 127.5, values, atol=1e-4)
    images = decode(pipeline, read)
    save_images(tmp_path / "sheet.png", [("some", images)], 1)
    save_each(tmp_path, images)
    assert len(list(tmp_path.glob("*.png"))) == 3
    with Image.open(tmp_path / "00000.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved).reshape(values.shape), values)
        assert saved.mode == mode
    other = Image.fromarray(values[..., 0]) if channels != 1 else Image.new("RGB", (16, 16))
    with pytest.raises(ValueError, match=f"must have mode {mode} and 16x16 pixels"):
        read_images(pipeline, [other])


def test_a_tiny_autoencoder_encodes_too():
    """Its latents are no distribution's; images given to it are read as others are."""
    pipeline = build(families.sd)
    small = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    pipeline.vae = AutoencoderTiny(latent_channels=4, **small, **blocks).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encode(pipeline, images)
    with torch.no_grad():
        np.testing.assert_allclose(latents, pipeline.vae.encode(images).latents, atol=1e-6)
    assert decode(pipeline, latents).shape == (2, 3, 16, 16)


def test_a_vae_that_overflows_in_float16_encodes_in_float32():
    """Weights as those of SDXL's own: a scale that a norm divides out again, far beyond what float16 holds."""
    pipeline = build(families.sdxl)
    pipeline.vae.register_to_config(force_upcast=True)
    with torch.no_grad():
        pipeline.vae.encoder.conv_in.weight.mul_(2e5)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wanted = encode(pipeline, images)
    pipeline.vae.to(torch.float16)
    pipeline.vae.encoder.conv_in.weight.data = pipeline.vae.encoder.conv_in.weight.data.clamp(-6e4, 6e4)
    found = encode(pipeline, images)
    assert torch.isfinite(found).all()
    assert pipeline.vae.dtype == torch.float16  # as it was
    assert found.shape == wanted.shape
