"""An accelerator that is none: tensors that say they are on torch's meta device, hold values, and refuse the CPU's.

A real meta tensor has no values, so code that looks at one (how many rows are to be corrected?) ends there. Here each
carries a CPU tensor inside. What CUDA would refuse is refused: an operation on tensors of both devices, a generator of
the CPU for numbers made elsewhere, a NumPy view. So a tensor that was left behind is found without a GPU:

    with Elsewhere():
        pipeline.to(DEVICE)  # and whatever is to run there
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
ATEN = torch.ops.aten
# Operations that take tensors of two devices on CUDA, too.
COPIES = {ATEN._to_copy.default, ATEN.copy_.default}
INDEXED = {ATEN.index.Tensor, ATEN.index_put_.default, ATEN.index_put.default, ATEN._index_put_impl_.default}


class MixedDevices(RuntimeError):
    """What CUDA would refuse."""


class There(Tensor):
    """A tensor that says it is on :data:`DEVICE`; ``inner`` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    @property
    def data(self) -> Any:
        return self.detach()

    @data.setter
    def data(self, value: Any) -> None:
        if not isinstance(value, There):
            raise MixedDevices("a parameter there is given a value that is here")
        self.inner = value.inner

    def __repr__(self) -> str:
        return f"There({self.inner!r})"

    def __format__(self, spec: str) -> str:
        return format(self.inner.item() if self.inner.ndim == 0 else repr(self), spec)

    def numpy(self, **_: Any) -> Any:
        raise MixedDevices("numpy() of a tensor there: cpu() first")

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __deepcopy__(self, memo: Any) -> There:
        made = There(self.inner.clone())
        return made.requires_grad_(self.requires_grad)

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any, no_doubles: bool = False) -> Any:
    kwargs = dict(kwargs)
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted)
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
    there = [value for value in tensors if isinstance(value, There)]
    if any(value.is_meta and not isinstance(value, There) for value in tensors):
        raise RuntimeError(f"{func}: a meta tensor without values")
    generator = next((value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Generator)), None)
    goes_there = bool(there) if wanted is None else wanted.type == DEVICE.type
    if generator is not None and goes_there:
        raise MixedDevices(f"{func}: a generator of the CPU makes no numbers elsewhere")
    if there and func not in COPIES:
        here = [value for value in tensors if not isinstance(value, There) and value.ndim > 0]
        if func in INDEXED and isinstance(args[0], There):
            values = args[2] if len(args) > 2 else None
            here = [values] if isinstance(values, Tensor) and not isinstance(values, There) and values.ndim else []
        if here:
            raise MixedDevices(
                f"{func}: tensors of shapes {[tuple(value.shape) for value in there]} there, "
                f"{[tuple(value.shape) for value in here]} here"
            )
    if goes_there and "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    inside = tree_map(lambda value: value.inner if isinstance(value, There) else value, (args, kwargs))
    result = func(*inside[0], **inside[1])
    if func in COPIES and func is not ATEN._to_copy.default:
        return args[0]
    if func._schema.is_mutable and func._schema.name.rsplit("::")[-1].rstrip("_") != func._schema.name.rsplit("::")[-1]:
        return args[0] if isinstance(args[0], Tensor) else result  # in place: the very tensor
    if "out" in kwargs:
        return kwargs["out"]
    if not goes_there:
        return result

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if no_doubles and value.dtype == torch.float64:
            raise MixedDevices(f"{func}: double precision there")
        return There(value)

    return tree_map(wrapped, result)


class _Made(TorchFunctionMode):
    """``torch.tensor`` and ``as_tensor`` make what they make here, and then it goes there."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if func in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device).type == DEVICE.type:
            del kwargs["device"]
            if args and isinstance(args[0], There):
                return func(*args, **kwargs)
            return func(*args, **kwargs).to(DEVICE)
        return func(*args, **kwargs)


class _Devices(TorchDispatchMode):
    def __init__(self, doubles: bool) -> None:
        super().__init__()
        self.doubles = doubles

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, not self.doubles)


@contextmanager
def Elsewhere(doubles: bool = True) -> Iterator[None]:
    """Inside, ``DEVICE`` is a device beside the CPU; ``doubles``: whether it has double precision (MPS has not)."""
    with _Made(), _Devices(doubles):
        yield


def move(pipeline: Any) -> Any:
    """A pipeline's networks there, by a module's own ``to``."""
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            _move(part)
    return pipeline


def _move(network: torch.nn.Module) -> None:
    for module in network.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                there = parameter.detach().to(DEVICE)
                module._parameters[name] = torch.nn.Parameter(there, requires_grad=parameter.requires_grad)
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = buffer.to(DEVICE)
