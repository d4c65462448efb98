"""The errors that a user can meet. Each is one line: what happened, why, and what to do.

The library raises them. A front end prints them, and may replace `fix` by a hint in its own terms,
which it selects by `code`. Any other exception that escapes is a defect and keeps its traceback.
"""

from collections.abc import Mapping


class OmniError(Exception):
    """A failure that the user can understand and repair. Exit code 1.

    `code` identifies the kind of failure for programs. It is stable, unlike the message.
    `details` holds the values that belong to it, for example the memory that is needed.
    """

    exit_code = 1
    code = "failed"

    def __init__(
        self,
        message: str,
        *,
        fix: str | None = None,
        code: str | None = None,
        details: Mapping[str, str] | None = None,
    ) -> None:
        """`message` says what happened and why; `fix` is the step that repairs it."""
        super().__init__(message)
        self.message = message
        self.fix = fix
        self.details: Mapping[str, str] = details or {}
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return f"{self.message} ({self.fix})" if self.fix else self.message


class UsageError(OmniError):
    """A request with a wrong name, option or value, or one that is not possible. Exit code 2."""

    code = "invalid_request"
    exit_code = 2


class MediaError(OmniError):
    """An audio, image or video file that cannot be read."""

    code = "invalid_media"


class BundleError(OmniError):
    """A bundle that is missing, damaged, or of another format."""

    code = "invalid_bundle"


class ContextFullError(OmniError):
    """The prompt or the reply does not fit into the rest of the context."""

    code = "context_full"
