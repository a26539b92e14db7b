"""How many files and sockets this process may have open (RLIMIT_NOFILE, getrlimit(2))."""

import contextlib

#: Assumed where the system has no such limit or does not report it: each connection costs memory as well.
_MAX = 65_536


def most() -> int:
    """The number of descriptors that this process may have open now."""
    try:
        import resource
    except ImportError:  # Windows has none
        return _MAX
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MAX if soft == resource.RLIM_INFINITY else min(soft, _MAX)


def raise_limit() -> int:
    """Raises the limit to what the system lets this process have, and returns it. For a server's process alone.

    The low default is for programs that call ``select``, which cannot take a descriptor above 1023; fleetcore does not
    call it.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MAX if hard == resource.RLIM_INFINITY else min(hard, _MAX)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return most()
