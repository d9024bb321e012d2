"""What the process has no use for any more, and its allocator keeps."""

import ctypes


def give_back() -> None:
    """Lets the kernel have the free pages of the heap again, where the C library can (glibc). Costs milliseconds, and
    as many again when the pages are next used."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
