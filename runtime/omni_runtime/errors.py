"""The errors a user can meet. Each one is a single line: what happened, why, and what to do.

The library raises them, the command line prints them and turns them into an exit code. Anything
else that escapes is a defect of ours and keeps its stack trace.
"""


class OmniError(Exception):
    """A failure that the user can understand and repair. Exit code 1.

    `code` names the kind of failure for programs. It is stable, unlike the message.
    """

    exit_code = 1
    code = "failed"

    def __init__(self, message: str, *, fix: str | None = None, code: str | None = None) -> None:
        """`message` says what and why; `fix` is the step that repairs it."""
        super().__init__(message)
        self.message = message
        self.fix = fix
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


class UsageError(OmniError):
    """A request that can't be met as it was written: a wrong name, flag or value. Exit code 2."""

    code = "invalid_request"
    exit_code = 2


class MediaError(OmniError):
    """A sound, picture or video that can't be read."""

    code = "invalid_media"


class BundleError(OmniError):
    """A bundle that is missing, damaged, of a newer format, or not a bundle at all."""

    code = "invalid_bundle"


class ContextFullError(OmniError):
    """The prompt or the reply does not fit into the context that is left."""

    code = "context_full"
