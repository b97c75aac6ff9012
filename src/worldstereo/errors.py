"""The errors that a user can cause and mend."""


class InputError(Exception):
    """Something given by the user cannot be used.

    The message is one sentence that names the file or option, the field, and the mend.
    The command line prints it without a traceback and exits with code 2.
    """


class BusyError(InputError):
    """Another process works on the same thing; it is neither damaged nor done."""


class FullDiskError(InputError):
    """There is no room left to write to; nothing else can be written either."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"install it with: pip install 'worldstereo[{extra}]'"
        )
