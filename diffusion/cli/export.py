"""The command ``export``: a result for programs that read another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusion import need_extra
from diffusion.cli.options import OverwriteOption


def export(
    result: Annotated[Path, typer.Argument(help="folder of a result, or of any LoRA that diffusers loads")],
    output: Annotated[Path, typer.Option(help="the file, such as name.safetensors")],
    format: Annotated[str, typer.Option(help="kohya: for ComfyUI and A1111")] = "kohya",
    overwrite: OverwriteOption = False,
) -> None:
    """The LoRA of a result as a file that ComfyUI and A1111 read, its alpha kept."""
    need_extra()
    if format != "kohya":
        raise ValueError(f"format must be kohya, got {format!r}")
    if output.suffix != ".safetensors":
        raise ValueError(f"output must end in .safetensors, got {str(output)!r}")
    if output.exists() and not overwrite:
        raise ValueError(f"output {str(output)!r} is there already: choose another or give --overwrite")
    if not result.is_dir():
        raise ValueError(f"result {str(result)!r} is no folder")
    from diffusion.runtime.files import check_file
    from diffusion.training.kohya import export_kohya

    check_file(output)
    layers = export_kohya(result, output)
    typer.echo(f"{layers} layers written to {output}")
