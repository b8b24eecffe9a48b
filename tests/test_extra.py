from importlib.metadata import PackageNotFoundError, requires

import pytest

from asr import extra
from asr.errors import AsrError

INSTALL = "pip install 'torch>=2.11,<2.12' 'torchaudio>=2.11,<2.12'"


def message() -> str:
    with pytest.raises(AsrError) as error:
        extra.require_train()
    return str(error.value)


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, to be changed by a test; importing torchaudio succeeds."""
    installed = dict.fromkeys(extra._packages(), "1.0") | {"torch": "2.11.0+cpu", "torchaudio": "2.11.1"}

    def version(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(extra, "version", version)
    monkeypatch.setattr(extra, "import_module", lambda name: None)
    return installed


def test_a_pair_of_one_release_will_do(versions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    monkeypatch.setattr(extra, "import_module", imported.append)
    extra.require_train()
    assert imported == ["torchaudio"]  # the pair was let through to the last check


@pytest.mark.parametrize("name", ["torch", "torchaudio", "pytorch-lightning", "joblib", "onnx"])
def test_a_missing_package(versions: dict[str, str], name: str) -> None:
    del versions[name]
    assert message() == f"{name} is not installed; this command needs pip install 'asr[train]'"


@pytest.mark.parametrize(
    ("torch", "torchaudio"), [("2.15.0", "2.11.0"), ("2.1.0", "2.11.0"), ("3.11", "2.11")]
)
def test_a_mismatched_pair(versions: dict[str, str], torch: str, torchaudio: str) -> None:
    versions |= {"torch": torch, "torchaudio": torchaudio}
    assert message() == f"torch {torch} and torchaudio {torchaudio} do not fit together; {INSTALL}"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError("libcudart.so.13: cannot open shared object file\nmore\nlines"), None),
        (ImportError("undefined symbol: _ZN3c10"), None),
        (RuntimeError("PyTorch has CUDA version 12.8 whereas TorchAudio has CUDA version 13.0"), None),
        (ImportError(), "ImportError"),
    ],
)
def test_a_broken_pair(
    versions: dict[str, str], monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str | None
) -> None:
    def fail(name: str) -> None:
        assert name == "torchaudio"
        raise error

    monkeypatch.setattr(extra, "import_module", fail)
    reason = reason or str(error).partition("\n")[0]
    assert message() == f"torchaudio 2.11.1 cannot use torch 2.11.0+cpu ({reason}); {INSTALL}"


def test_the_advice_is_what_the_package_states() -> None:
    stated = {r.partition(";")[0] for r in requires("asr") or [] if "train" in r}
    for name in ("torch", "torchaudio"):
        [requirement] = [r for r in stated if r.startswith((f"{name}<", f"{name}>"))]
        lower, upper = sorted(requirement.removeprefix(name).strip().split(","), reverse=True)
        assert f"'{name}{lower},{upper}'" in INSTALL
    assert INSTALL == extra._INSTALL


def test_names_of_the_extra() -> None:
    names = extra._packages()
    assert {"torch", "torchaudio", "pytorch-lightning", "jsonargparse", "joblib", "onnx"} <= set(names)
    assert not {"numpy", "pytest", "ruff"} & set(names)
