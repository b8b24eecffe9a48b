"""Errors that a user can mend: one line that names the thing, what is wrong, and what to do."""


class AsrError(Exception):
    """Base of all errors that the command line prints without a traceback; `status` is its exit code."""

    status = 1


class UsageError(AsrError):
    """Arguments of a command that contradict each other."""

    status = 2


class AudioError(AsrError):
    """A recording that cannot be read."""


class TextError(AsrError):
    """A transcript that the vocabulary cannot spell."""


class ManifestError(AsrError):
    """A manifest that is missing, malformed or contradicts itself."""


class StoreError(AsrError):
    """A feature store that is incomplete, damaged or made from other data."""


class BundleError(AsrError):
    """A model bundle that is missing, damaged or of another version."""


class PrepareError(AsrError):
    """A corpus that cannot be downloaded, unpacked or understood."""


class TrainingError(AsrError):
    """A training run that cannot start or go on."""


class TrainingStoppedError(TrainingError):
    """A training run that was asked to end (SIGTERM): start it again."""

    status = 75  # EX_TEMPFAIL of sysexits.h


class DecodingError(AsrError):
    """Posteriors that cannot be decoded."""


class LanguageModelError(AsrError):
    """A language model, or the text or ARPA file to make one from, that cannot be used."""
