"""The service, whose lanes die when it gets SIGUSR1: ``python -m tests.e2e.mortal`` takes the same flags."""

import ctypes
import signal
import sys
import threading

from service.__main__ import main


def kill_lanes(*_: object) -> None:
    for thread in threading.enumerate():
        if thread.name.startswith("lane "):
            identity = ctypes.c_ulong(thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(identity, ctypes.py_object(SystemExit))


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, kill_lanes)
    sys.exit(main())
