"""Whether the extra `train` is there and whole."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from asr.errors import AsrError

_INSTALL = "pip install 'torch>=2.11,<2.12' 'torchaudio>=2.11,<2.12'"


def require_train() -> None:
    """Raise AsrError where torch or torchaudio is missing, or the two do not belong together."""
    try:
        torch, torchaudio = version("torch"), version("torchaudio")
    except PackageNotFoundError as error:
        raise AsrError(f"{error.name} is not installed; this command needs pip install 'asr[train]'") from None
    if torch.split(".")[:2] != torchaudio.split(".")[:2]:
        raise AsrError(f"torch {torch} and torchaudio {torchaudio} do not fit together; {_INSTALL}")
    try:
        import_module("torchaudio")
    except (ImportError, OSError) as error:  # a CPU-only torch beside the usual torchaudio, say
        reason = str(error).splitlines()[0]
        raise AsrError(f"torchaudio {torchaudio} cannot use torch {torch} ({reason}); {_INSTALL}") from None
