"""Options from the fields of tasks and configurations: one place says name, type, default and help.

::

    @with_job("sampling", "ratios", "fit", "evaluation", "runtime", task=CONCEPT_OPTIONS)
    def distill(model, output, job): ...

The command has the options of the task and of those sections, each in a group of its own, and ``--config``; it is
called with one :class:`Job` instead. What is given on the command line goes over what files say, and that over the
defaults. Where the model that is named is the folder of a result, its task and settings are taken from there.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from diffusion import need_extra
from diffusion.cli.task_options import concept_task, image_task, shown_default
from diffusion.tasks.config import CONFIG, SECTIONS, SEEDED, Config
from diffusion.tasks.settings import read_yaml
from diffusion.tasks.task import TASK

if TYPE_CHECKING:
    from diffusion.tasks.image_task import ImageTask
    from diffusion.tasks.task import ConceptTask

TITLES = {
    "sampling": "Sampling",
    "ratios": "Ratio estimation",
    "fit": "Training",
    "evaluation": "Evaluation",
    "audit": "Audit",
    "runtime": "Run",
}
# Parameters that only a fit which is saved, and only what is sampled at a guidance scale, has a use for.
OF_RUNS = ("checkpointing_steps", "report_to", "logging_dir", "export")
OF_GUIDANCE = ("guidance_scale", "negative_prompt")
PREFIXES = {"evaluation": "evaluation-", "audit": "audit-"}  # where two sections have fields of one name
ModelArgument = Annotated[
    str | None, typer.Argument(help="'digits', a folder or hub name that diffusers can load, or a result's folder")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="YAML file of settings or result's folder; options override it", show_default=False),
]


@dataclass(frozen=True)
class Job:
    """What a command is to do.

    ``said``: the fields of the task as files have them; ``flags``: the task's options as given; ``config``: everything
    else; ``folder``: of the result that was named, where one was; ``model``: as given on the command line.
    """

    said: dict[str, Any]
    flags: dict[str, Any]
    config: Config
    folder: Path | None = None
    model: str | None = None

    def concept_task(self, **defaults: Any) -> ConceptTask:
        """See :func:`diffusion.cli.task_options.concept_task`; ``defaults``: fields where nobody has said them."""
        said = {name: value for name, value in self.said.items() if value is not None}
        return concept_task(defaults | said, self.flags, self.model)

    def image_task(self) -> tuple[ImageTask, list[Path]]:
        """See :func:`diffusion.cli.task_options.image_task`."""
        return image_task(self.said, self.flags, self.model)


def with_job(
    *sections: str,
    task: Mapping[str, Any] | None = None,
    defaults: Config | None = None,
    without: Collection[str] = (),
    presets: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A command that takes ``job`` as one that has the options of a task and of these sections instead.

    An option of the command's own takes the place of a section's of the same name. ``without``: parameters of options
    that the command has no use for. ``presets``: help of flags by the name of a preset of :class:`Config`, which takes
    the place of the defaults.
    """
    start = defaults or Config()
    asked, kinds = dict(task or {}), dict(presets or {})

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(command, eval_str=True)
        derived = {name: option for section in sections for name, option in _options(section, start).items()}
        options = {name: option for name, option in derived.items() if name not in (*own.parameters, *without)}

        @wraps(command)
        def called(**words: Any) -> Any:
            need_extra()  # before anything is read: what reads tasks needs torch
            flags = {name: words.pop(name) for name in asked}
            settings = {name: words.pop(name) for name in options}
            chosen = [name for name in kinds if words.pop(name)]
            file, model = words.pop("config"), words.pop("model", None)
            if model is not None and (Path(model) / TASK).is_file():
                if file is not None:
                    raise ValueError(f"config cannot be given where the model {model!r} is a result, which has its own")
                file, model = Path(model), None
            said, sections_said, folder = read_files(file)
            if len(chosen) > 1:
                raise ValueError(f"{' and '.join(chosen)} are two presets; one is needed")
            if chosen and folder is not None:
                raise ValueError(f"{chosen[0]}: {str(folder)!r} is a result, which says every setting itself")
            config = merged(sections_said, settings, options, getattr(Config, chosen[0])() if chosen else start)
            return command(**words, job=Job(said, flags, config, folder, model))

        mine = [parameter for name, parameter in own.parameters.items() if name != "job"]
        named = asked | {name: o.annotation for name, o in options.items()}
        flags = {name: Annotated[bool | None, typer.Option(f"--{name}", help=words)] for name, words in kinds.items()}
        keyword = inspect.Parameter.KEYWORD_ONLY
        added = [
            inspect.Parameter(name, keyword, default=None, annotation=annotation)
            for name, annotation in ({"model": ModelArgument} | flags | named | {"config": ConfigOption}).items()
        ]
        parameters = [added[0], *(each.replace(kind=keyword) for each in mine), *added[1:]]
        called.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        return called

    return decorate


def merged(
    said: Mapping[str, dict[str, Any]], flags: Mapping[str, Any], options: Mapping[str, _Option], start: Config
) -> Config:
    """Defaults, what files say, and the flags that were given, in this order. ``ValueError`` for what fits none."""
    data: dict[str, Any] = {name: getattr(start, name).model_dump() for name in SECTIONS}
    for section in SEEDED:  # follows the runtime's seed, unless it has one of its own
        data[section].pop("seed")
    for section, values in said.items():
        data[section] |= values
    for name, value in flags.items():
        if value is not None and value != []:
            option = options[name]
            data[option.section][option.field] = tuple(value) if isinstance(value, list) else value
            if name == "seed":
                for section in SEEDED:
                    data[section].pop("seed", None)
    return Config(**data)


def read_files(file: Path | None) -> tuple[dict[str, Any], dict[str, dict[str, Any]], Path | None]:
    """The task, the sections, and the folder of a result, from a file of settings or such a folder.

    A file may hold a task itself, under ``task``; else the ``task.yaml`` beside it is taken, where there is one.
    """
    if file is None:
        return {}, {}, None
    folder = file if file.is_dir() else None
    path = file / CONFIG if folder else file
    if not path.is_file():
        raise ValueError(f"config {str(file)!r} is neither a file nor a folder with {CONFIG}")
    data = read_yaml(path)
    task = data.pop("task", None)
    beside = path.with_name(TASK)
    if task is None:
        task = read_yaml(beside) if beside.is_file() else {}
    unknown = [name for name in data if name not in SECTIONS]
    if unknown:
        raise ValueError(f"{path}: {unknown[0]} is none of {', '.join(SECTIONS)}, task")
    wrong = [name for name, values in data.items() if not isinstance(values, dict)]
    if wrong:
        raise ValueError(f"{path}: {wrong[0]} must hold names and values, got {data[wrong[0]]!r}")
    return task, data, path.parent if beside.is_file() else folder


@dataclass(frozen=True)
class _Option:
    section: str
    field: str
    annotation: Any


def _options(section: str, start: Config) -> dict[str, _Option]:
    """By the name of the parameter: an option for every field of a section that has one."""
    made = {}
    values = getattr(start, section)
    for field, info in SECTIONS[section].model_fields.items():
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        if "flag" in extra:
            continue
        flag = PREFIXES.get(section, "") + field.replace("_", "-")
        annotation = _annotation(flag, info, getattr(values, field), TITLES[section])
        made[flag.replace("-", "_")] = _Option(section, field, annotation)
    return made


def _annotation(flag: str, info: FieldInfo, default: Any, panel: str) -> Any:
    kind, words = _plain_type(info.annotation), str(info.description)
    if default not in (None, (), "") and kind is not bool and "default" not in words:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        words += shown_default(f"{shown:.3g}" if isinstance(shown, float) else str(shown))
    option = typer.Option(f"--{flag}", help=words, rich_help_panel=panel, show_default=False)
    return Annotated[list[str] | None if kind is tuple else kind | None, option]


def _plain_type(annotation: Any) -> Any:
    """What a word of the command line is read as: pydantic checks the value itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(each for each in get_args(annotation) if each is not type(None))
    if get_origin(annotation) is tuple:
        return tuple
    if get_origin(annotation) is Literal:
        return str
    return annotation
