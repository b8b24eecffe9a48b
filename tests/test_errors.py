"""The check of the extra `train`."""

from importlib.metadata import PackageNotFoundError, requires

import pytest

from asr import errors
from asr.errors import AsrError


def message() -> str:
    with pytest.raises(AsrError) as error:
        errors.require_train()
    return str(error.value)


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Installed packages, to be changed by a test; importing torchaudio succeeds."""
    installed = dict.fromkeys(errors._packages(), "1.0") | {"torch": "2.11.0+cpu", "torchaudio": "2.11.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(errors, "version", version)
    monkeypatch.setattr(errors, "import_module", lambda name: None)
    return installed


@pytest.mark.parametrize(
    "name", ["torch", "torchaudio", "pytorch-lightning", "jsonargparse", "joblib", "onnx"]
)
def test_a_missing_package(versions: dict[str, str], name: str) -> None:
    errors.require_train()
    del versions[name]
    assert message().startswith(f"{name} is not installed") and "asr[train]" in message()


@pytest.mark.parametrize("torch", ["2.15.0", "2.1.0", "3.11"])
def test_a_mismatched_pair(versions: dict[str, str], torch: str) -> None:
    versions["torch"] = torch
    assert message().startswith(f"torchaudio 2.11.1 cannot use torch {torch} (")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("libcudart.so.13: cannot open\nmore\nlines"), "(libcudart.so.13: cannot open)"),
        (RuntimeError("PyTorch has CUDA 12.8"), "(PyTorch has CUDA 12.8)"),
        (ImportError(), "(ImportError)"),
    ],
)
def test_a_broken_pair(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(name: str) -> None:
        assert name == "torchaudio"
        raise error

    monkeypatch.setattr(errors, "import_module", fail)
    assert message().startswith(f"torchaudio 2.11.1 cannot use torch 2.11.0+cpu {reason}; pip install")


def test_the_advice_is_what_the_package_requires() -> None:
    assert not {"numpy", "pytest", "ruff"} & set(errors._packages())  # of no extra, or another
    stated = {r.partition(";")[0] for r in requires("asr") or [] if "train" in r}
    for name in ("torch", "torchaudio"):
        [requirement] = [r for r in stated if r.startswith((f"{name}<", f"{name}>"))]
        lower, upper = sorted(requirement.removeprefix(name).strip().split(","), reverse=True)
        assert f"'{name}{lower},{upper}'" in errors._INSTALL
