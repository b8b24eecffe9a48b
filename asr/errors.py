"""Errors that a user can fix (one line with the file or key, the cause, and what to do); missing packages."""

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version


class AsrError(Exception):
    """Base of the errors that `asr` prints without a traceback; `status` is its exit code."""

    status = 1


class UsageError(AsrError):
    """Contradictory arguments of a command."""

    status = 2


class AudioError(AsrError):
    """A recording that cannot be read."""


class UnsupportedAudioError(AudioError):
    """A recording in a codec that FFmpeg does not have."""


class AudioTooLongError(AudioError):
    """A recording longer than the caller allows."""


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


_INSTALL = "pip install 'torch>=2.11,<2.12' 'torchaudio>=2.11,<2.12'"


def require_train() -> None:
    """Raise AsrError if a package of the extra is missing, or torchaudio cannot use the torch beside it."""
    try:
        for name in _packages():
            version(name)
        torch, torchaudio = version("torch"), version("torchaudio")
    except PackageNotFoundError as error:
        raise AsrError(
            f"{error.name} is not installed; this command needs pip install 'asr[train]'"
        ) from None
    try:
        if torch.split(".")[:2] != torchaudio.split(".")[:2]:
            raise RuntimeError("different releases")
        import_module("torchaudio")
    except (ImportError, OSError, RuntimeError) as error:  # a CPU-only torch beside the usual torchaudio, say
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise AsrError(f"torchaudio {torchaudio} cannot use torch {torch} ({reason}); {_INSTALL}") from None


def _packages() -> list[str]:
    """Names of the packages, from the metadata of the installed asr."""
    stated = [r for r in requires("asr") or [] if re.search(r"extra == ['\"]train['\"]", r)]
    return [re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in stated]
