"""The optional packages of the extra `train`."""

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version

from asr.errors import AsrError

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
