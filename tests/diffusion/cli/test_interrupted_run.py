"""`unlearn distill` as a process of its own, ended by the system in the middle of its fit, and started again."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("typer")

from tests.diffusion import families
from tests.diffusion.families import build


@pytest.mark.slow
def test_terminated_in_the_fit_and_resumed(tmp_path):
    build(families.sd).save_pretrained(tmp_path / "sd")
    words = [
        *(sys.executable, "-W", "ignore", "-m", "diffusion.cli.main", "distill", str(tmp_path / "sd")),
        *("--concept", "seven", "--retained-prompt", "one", "--prior", "0.1", "--level", "0.99x"),
        *("--num-samples", "40", "--concept-samples", "20", "--retained-samples", "30", "--evaluation-samples", "80"),
        *("--max-train-steps", "400", "--rank", "1", "--fixed-multipliers", "--train-batch-size", "6"),
        *("--cache-folder", str(tmp_path / "cache"), "--output", str(tmp_path / "deep" / "out")),
        *("--checkpointing-steps", "1000"),
    ]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, bufsize=0) as process:
        seen = b""
        while not re.search(rb"fit of the LoRA \(400\)\n", seen):
            block = process.stderr.read(200)
            assert block, seen[-2000:]
            seen += block
        time.sleep(2)  # a step takes some hundredths of a second
        process.send_signal(signal.SIGTERM)
        said = process.stderr.read().decode()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "interrupted after step" in said
    assert "Traceback" not in said
    assert not (tmp_path / "deep").exists()
    (checkpoint,) = (tmp_path / "cache").glob("fit-*")
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "resuming from step" in run.stderr
    assert str(checkpoint) in run.stderr
    proof = json.loads((tmp_path / "deep" / "out" / "certificate.json").read_text(encoding="utf-8"))
    assert proof["fitted_model"]["fit"]["max_train_steps"] == 400
