"""Images as files, in as many channels as the pipeline has."""

import numpy as np
import pytest
from PIL import Image

from diffusion.reports.figures import save_each, sheet


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_images_of_one_channel_are_grey(tmp_path, channels, mode):
    images = np.linspace(-1, 1, 2 * channels * 4 * 5, dtype=np.float32).reshape(2, channels, 4, 5)
    save_each(tmp_path, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.png", "00001.png"]
    read = Image.open(tmp_path / "00001.png")
    assert read.mode == mode
    values = np.asarray(read).reshape(4, 5, channels).transpose(2, 0, 1) / 127.5 - 1
    np.testing.assert_allclose(values, images[1], atol=0.5 / 127.5 + 1e-6)  # half a grey level
    assert sheet(images, 2).shape == (4 + 4, 2 * (5 + 2) + 2, 3)
