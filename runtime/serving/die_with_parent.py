"""``python die_with_parent.py PARENT PROGRAM ARGUMENT...``: runs a program that ends when its parent does.

A file of its own, run by path: the kernel's order must be given in the new process, and doing so between
fork and exec of a process with threads is not safe.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Asks for SIGTERM when the parent ends, which outlasts ``exec``, and becomes the program."""
    parent, *command = sys.argv[1:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):
        sys.exit("the parent ended before this program started")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
