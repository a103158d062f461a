"""Every exception raised on purpose.

A message is one sentence for the person at the keyboard: what, where, the rule, what to do.
The command line prints it without a traceback and exits with the class's `exit_code`.
"""


class BBQRecError(Exception):
    """Something the user can put right."""

    exit_code = 2


class ConfigError(BBQRecError):
    """A setting is unknown, out of range or contradicts another."""


class DataError(BBQRecError):
    """Input data break a rule of the dataset format."""


class FeatureError(BBQRecError):
    """Feature vectors are stale, malformed or do not belong to this catalog."""


class SemanticIdError(BBQRecError):
    """A semantic-ID table is malformed or is not the one a model was trained on."""


class RequestError(BBQRecError):
    """A request for recommendations cannot be answered as asked."""


class CorruptArtifactError(BBQRecError):
    """A file of a run is missing, damaged or of another format version."""


class StorageError(BBQRecError):
    """The operating system refused a read or a write (disk full, permission, lock)."""


class RunBusyError(StorageError):
    """Another process is working in the run folder."""


class MissingDependencyError(BBQRecError):
    """An optional library is needed for what was asked."""


class ExportError(BBQRecError):
    """A model cannot be handed over as asked, or what would be written is not right."""


class TrainingDivergedError(BBQRecError):
    """A loss or gradient is no longer finite."""


class NotFoundError(BBQRecError):
    """A user or item that was asked for is not known, or no longer."""


class ConflictError(BBQRecError):
    """What was asked contradicts what is there already."""


class OverloadedError(BBQRecError):
    """More requests are waiting than can be answered in time."""
