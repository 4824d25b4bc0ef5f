"""The errors of batchlic as one tree. Each kind has the exit code that the command line ends with.

    BatchlicError                1  a bug: unexpected error
    ├── UsageError               2  arguments, job file or settings are wrong
    │   ├── InventoryError          an inventory can't be read at all
    │   ├── RunFolderError          a run folder is missing, damaged or holds another run
    │   │   └── OtherVersion        another version of batchlic wrote the file
    │   ├── NoAccess                a file or folder can't be opened: permissions, or another kind of file
    │   └── LedgerError             a ledger is damaged
    ├── Incomplete               3  finished, but some devices failed, are in doubt, or were rejected
    ├── RefusedToStart           4  nothing was sent: no consent, too few licenses, a guard, a locked run
    │   └── Declined                a person at the terminal answered no
    ├── CredentialsRejected      5  the carrier rejects the login or a token
    └── StoppedEarly             6  resumable: a signal, the carrier down, too many refusals, no disk

An error's text says what is wrong, where (file, row, column, field or setting) and what to do.
It never holds a credential (promise F).
"""

from enum import IntEnum

from batchlic.aliases import shown

NOT_ON_WINDOWS = (
    "batchlic runs on Linux and macOS, because it needs their file locks and signals. On Windows, use the "
    "container image or WSL: docs/how-to/install.md"
)


class ExitCode(IntEnum):
    """The exit codes of the command line."""

    OK = 0
    """Every planned device is accepted, confirmed or skipped, and no more rows are rejected than
    `--max-rejects` tolerates."""
    BUG = 1
    """A bug: an unexpected error."""
    USAGE = 2
    """Bad usage, job file, settings (such as a wrong base URL) or inventory."""
    INCOMPLETE = 3
    """Finished, but some devices failed or are in doubt, some rows were rejected, or devices are not
    confirmed although the job requires confirmation. Also: `audit --verify` found something, `check` or
    `store check` found an error, or `runs` can't read a run."""
    REFUSED = 4
    """Refused before anything was sent: no consent to Lifetime licenses, too few licenses, too few rows or
    too many changes (guards), an unknown account, licenses that the ledger does not know, or a plan that is
    out of date or not approved. Also: another run uses the folder, the job's name or a device."""
    CREDENTIALS = 5
    """The carrier rejected the credentials, or they lack a permission. batchlic does not repeat a login,
    because five failures lock it."""
    STOPPED = 6
    """Stopped early, resumable: a signal, the carrier down, too many refusals, a canary that failed, a full
    disk, or a store that can't be reached or that another session has taken over the run in."""


class BatchlicError(Exception):
    """Root of all errors that batchlic raises on purpose."""

    exit_code = ExitCode.BUG

    def __str__(self) -> str:
        """The text, which names a run folder in an object store by its address."""
        return shown(super().__str__())


class UsageError(BatchlicError):
    """Arguments, job file or settings are wrong."""

    exit_code = ExitCode.USAGE


class InventoryError(UsageError):
    """An inventory can't be read: missing, empty, in an unknown format, or without a usable column."""


class RunFolderError(UsageError):
    """A run folder is missing, damaged, or holds another run than the one asked for."""


class OtherVersion(RunFolderError):
    """Another version of batchlic wrote the file. It is not damaged: that version reads it."""


class NoAccess(UsageError):
    """A file or folder can't be opened: its permissions, or its kind. Nothing is known about its content."""


class LedgerError(UsageError):
    """A ledger is damaged: its records can't be trusted."""


class RefusedToStart(BatchlicError):
    """Nothing was sent, because a precondition does not hold (promise E)."""

    exit_code = ExitCode.REFUSED


class Declined(RefusedToStart):
    """A person at the terminal answered no."""


class Incomplete(BatchlicError):
    """A run finished, but devices failed, are in doubt, or were rejected. Only programs get this error."""

    exit_code = ExitCode.INCOMPLETE


class CredentialsRejected(BatchlicError):
    """The carrier rejected a login or token. Never retried: five in a row lock the login (promise G)."""

    exit_code = ExitCode.CREDENTIALS


class StoppedEarly(BatchlicError):
    """The run stopped before the end of its plan. Its journal is durable, and `resume` continues the run."""

    exit_code = ExitCode.STOPPED
