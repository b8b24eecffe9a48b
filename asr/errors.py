"""Errors that a user can fix: one line with the file or key, what is wrong, and what to do."""


class AsrError(Exception):
    """Base of the errors that `asr` prints without a traceback; `status` is its exit code."""

    status = 1


class UsageError(AsrError):
    """Contradictory arguments of a command."""

    status = 2


class AudioError(AsrError):
    """A recording that cannot be read."""


class TextError(AsrError):
    """A transcript with characters outside the vocabulary."""


class ManifestError(AsrError):
    """A manifest that is missing, malformed or inconsistent."""


class StoreError(AsrError):
    """A feature store that is incomplete, damaged, or made from other data."""


class BundleError(AsrError):
    """A model bundle that is missing, damaged or of an unknown version."""


class PrepareError(AsrError):
    """A corpus that cannot be downloaded, unpacked or read."""


class TrainingError(AsrError):
    """A training run that cannot start or continue."""


class TrainingStoppedError(TrainingError):
    """A training run stopped by SIGTERM; it can be resumed."""

    status = 75  # EX_TEMPFAIL of sysexits.h


class DecodingError(AsrError):
    """Posteriors or options that cannot be decoded."""


class LanguageModelError(AsrError):
    """A language model, text or ARPA file that cannot be used."""
