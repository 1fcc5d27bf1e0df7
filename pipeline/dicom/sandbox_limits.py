"""What the child process of the sandbox may use, set by itself before it reads its first byte from outside."""

from __future__ import annotations

import ctypes
import math
import os
import resource
from pathlib import Path
from typing import Final

LEAST_ROOM: Final = 64 * 2**20  #: bytes of address space beyond what the interpreter and its libraries take
_NEW_USER_NAMESPACE: Final = 0x10000000
_NEW_NETWORK_NAMESPACE: Final = 0x40000000
_NO_NEW_PRIVILEGES: Final = 38


def limit_resources(address_space: int) -> None:
    """Bound the address space; allow no core dump, no growing file and few open files.

    Raises MemoryError when the bound would leave no room for work.
    """
    if address_space_used() + LEAST_ROOM > address_space:
        raise MemoryError
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def renew_processor_time(seconds: float) -> None:
    """Allow `seconds` of processor time from now; the kernel kills the process beyond that."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(usage.ru_utime + usage.ru_stime + seconds) + 1, hard))


def address_space_used() -> int:
    """Bytes of address space of this process, or 0 where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[0]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def leave_network() -> bool:
    """Move to an empty network of its own and give up gaining privileges, where the kernel allows; say whether it did.

    An ordinary user needs a user namespace for that; the superuser does without, so as to keep access to its files.
    """
    try:
        library = ctypes.CDLL(None, use_errno=True)
        library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        own_user = 0 if os.geteuid() == 0 else _NEW_USER_NAMESPACE
        return bool(library.unshare(_NEW_NETWORK_NAMESPACE | own_user) == 0)
    except (AttributeError, OSError):
        return False
