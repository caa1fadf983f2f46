"""The errors that this library raises: one line each, which says what was given, what is allowed and what to do."""


class _OneLine(BaseException):
    """Shown in a notebook as one line, without a traceback."""

    def _render_traceback_(self) -> list[str]:  # what IPython prints in place of a traceback
        return [f"{type(self).__name__}: {self}"]


class EsnacError(_OneLine, Exception):
    """Base of all errors that a user can fix."""


class Interrupted(_OneLine, KeyboardInterrupt):
    """A study was interrupted. Still a KeyboardInterrupt: the cells after it, or the script, do not go on."""


class ConfigError(EsnacError):
    """A parameter of a study is unknown, of the wrong type or out of range, or differs from the study's own."""


class ArchitectureError(EsnacError):
    """A graph is not a valid architecture: unknown layer, dangling source, shapes that do not fit."""


class TraceError(EsnacError):
    """A module holds an operation that tracing does not know."""


class DataError(EsnacError):
    """A data set is missing, damaged or of the wrong form."""


class LedgerError(EsnacError):
    """A ledger cannot be read, is in use by another process, or belongs to another study."""


class SpaceError(EsnacError):
    """Decisions do not belong to the search space, or the space has nothing left to propose."""


class StorageError(EsnacError):
    """A file of a study cannot be written or read: the disk is full, or a folder is gone."""


class VerificationError(EsnacError):
    """A student is not what its architecture says."""


class TrainingError(EsnacError):
    """A training cannot be run as asked."""


def one_line(error: BaseException, limit: int = 300, *, kind: bool = True) -> str:
    """Return an exception's message in one line, after its kind unless `kind` is False."""
    text = " ".join(str(error).split())
    return (f"{type(error).__name__}: {text}" if kind or not text else text)[:limit]
