"""LECO's prompt files as tasks: what is to go and what it falls back to; how far is said by a level instead.

An entry of such a file (``action: erase``) teaches the network, under ``target``, what it says under ``neutral`` less
``guidance_scale`` times the difference of ``positive`` and ``unconditional``. Here ``target`` becomes a concept's
prompt and ``neutral`` its anchor; entries of one anchor are one task. ``guidance_scale`` is a strength, and strengths
are solved for; ``unconditional`` belongs to it; ``resolution``, ``dynamic_resolution``, ``dynamic_crops`` and
``batch_size`` are matters of the configuration.

Source: prompt files of LECO and of sd-scripts' LECO trainers; docs/how-to/unlearn-a-concept.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FIELDS = {
    "target",
    "positive",
    "unconditional",
    "neutral",
    "action",
    "guidance_scale",
    "resolution",
    "dynamic_resolution",
    "dynamic_crops",
    "batch_size",
}


def read_leco(path: Path | str) -> dict[str, Any]:
    """``concepts`` (one an entry, in order) and ``anchor``: fields of a :class:`diffusion.tasks.task.ConceptTask`.

    Raises ``ValueError`` naming the file and the entry for what cannot be read, fields that LECO does not know,
    ``enhance``, entries whose ``positive`` is not their ``target`` (there a concept is taken out of one other prompt
    alone, which a law of prompts says better), and anchors that differ, since a task has one.
    """
    path = Path(path)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} must hold a list of LECO's entries, each with a target, got {type(entries).__name__}")
    read = [_entry(each, f"{path}: entry {number + 1}") for number, each in enumerate(entries)]
    anchors = list(dict.fromkeys(anchor for _, anchor in read))
    if len(anchors) > 1:
        raise ValueError(f"{path}: entries must have one neutral prompt, a task has one anchor, got {anchors!r}")
    return {"concepts": [{"prompts": prompts} for prompts, _ in read], "anchor": anchors[0]}


def _entry(entry: Any, where: str) -> tuple[tuple[str, ...], str]:
    """The prompts of a concept, and its anchor."""
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must hold names and values, got {entry!r}")
    if unknown := sorted(set(map(str, entry)) - FIELDS):
        raise ValueError(f"{where}: {unknown[0]} is no field of LECO's")
    action = entry.get("action", "erase")
    if action != "erase":
        raise ValueError(f"{where}: action must be erase, got {action!r}: only what must go is a task here")
    targets = _prompts(entry.get("target"), f"{where}: target")
    positives = targets if entry.get("positive") is None else _prompts(entry["positive"], f"{where}: positive")
    if positives != targets:
        raise ValueError(
            f"{where}: positive must be the target {' | '.join(targets)!r}, got {' | '.join(positives)!r}: to take a "
            "concept out of other prompts give --concept, --detector and --prompts"
        )
    free = entry.get("unconditional")
    neutral = entry.get("neutral")
    anchor = (free if free is not None else "") if neutral is None else neutral
    if not isinstance(anchor, str):
        raise ValueError(f"{where}: neutral must be a prompt, got {anchor!r}")
    return targets, anchor


def _prompts(given: Any, name: str) -> tuple[str, ...]:
    some = [given] if isinstance(given, str) else given
    if not isinstance(some, list) or not some or not all(isinstance(each, str) and each.strip() for each in some):
        raise ValueError(f"{name} must be a prompt or a list of them, got {given!r}")
    return tuple(each.strip() for each in some)
