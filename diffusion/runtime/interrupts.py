"""Ctrl-C and SIGTERM between steps instead of within them, and SIGTERM as an exception that tidies up."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
TERMINATED = 128 + signal.SIGTERM  # the exit code that shells expect


class Deferred:
    """``with Deferred() as asked:`` a first Ctrl-C or SIGTERM is only noted, in ``asked.signal``; a second one acts.

    :meth:`deliver` lets it act, as it would have without the block. Signals that are ignored stay so, and outside the
    main thread, where no handler can be set, nothing changes.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Deferred:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.signal is not None:
            self.deliver()
        self.signal = number

    def deliver(self) -> NoReturn:
        """What the noted signal does; where its handler returns, ``KeyboardInterrupt``."""
        number = self.signal
        self.__exit__()
        if number is not None:
            signal.raise_signal(number)
        raise KeyboardInterrupt


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises ``SystemExit(143)`` where it would have ended the process: what is open is closed."""

    def leave(_number: int, _frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
