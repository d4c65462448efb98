"""Errors for users. Each is a single line: what happened, why, and what to do.

The library raises them; the command line prints them and exits with their code. Any other exception
is a bug and keeps its traceback.
"""


class OmniError(Exception):
    """An error that the user can fix. Exit code 1.

    `code` identifies the kind of error for programs. It is stable, unlike the message.
    """

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, fix: str | None = None, code: str | None = None) -> None:
        """`message` says what happened and why; `fix` is what to do."""
        super().__init__(message)
        self.message = message
        self.fix = fix
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


class UsageError(OmniError):
    """An invalid request: a wrong name, flag, value or order of calls. Exit code 2."""

    code = "invalid_request"
    exit_code = 2


class MediaError(OmniError):
    """An audio, image or video file that cannot be used."""

    code = "invalid_media"


class BundleError(OmniError):
    """A bundle that is missing, damaged, of another format, or not a bundle."""

    code = "invalid_bundle"


class ContextFullError(OmniError):
    """The prompt or the reply does not fit into the remaining context."""

    code = "context_full"
