"""What keeps a guest from running a command, and what to do about it."""

EXIT_TIMEOUT = 124
EXIT_GUEST = 125


class GuestError(Exception):
    """The guest could not be built, started or finished; the message ends with the way out where there is one."""

    status = EXIT_GUEST


class GuestTimeout(GuestError):
    """The command was still running when its time was up."""

    status = EXIT_TIMEOUT
