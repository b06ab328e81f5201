"""SIGTERM and Ctrl-C, heard at once and obeyed when nothing is half done."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

HEARD = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """Raised by a signal inside `Interrupts.welcome`; no `except Exception` can swallow it."""


class Interrupts:
    """A flag that the first signal raises; the second ends the process at once.

    Where the state is complete, `with interrupts.welcome():` lets the first signal break in with
    `Stopped`. Outside the main thread signals cannot be heard, and nothing is changed.
    """

    def __init__(self) -> None:
        self.received = 0  # number of the first signal
        self.agreed = 0  # the same when all processes have been asked
        self._open = False
        self._process = os.getpid()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        try:
            for number in HEARD:
                self._before[number] = signal.signal(number, self._handle)
        except ValueError:  # not the main thread: the caller's `stop` is the way to end the run
            self._before = {}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def welcome(self) -> Iterator[None]:
        """Inside, a signal raises Stopped; so does one that came before."""
        try:
            self._open = True
            if self.received:
                raise Stopped
            yield
        finally:
            self._open = False

    def leave(self) -> None:
        """End the process as was agreed: exit code 143, or KeyboardInterrupt for Ctrl-C."""
        if self.agreed == signal.SIGINT:
            raise KeyboardInterrupt
        if self.agreed:
            raise SystemExit(128 + self.agreed)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a forked loader process: its parent means it to end
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.received:
            raise SystemExit(128 + number)
        else:
            self.received = number
            if self._open:
                raise Stopped
