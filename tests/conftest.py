"""Fixtures that more than one part of the tests needs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from asr import manifest
from asr.manifest import Utterance
from tests.standin import record, speak, write_bundle

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # before torch is imported; spinning starves other processes

# How long an example takes says more about what else runs on the machine than about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not _has_cuda():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _has_cuda() -> bool:
    import torch  # slow to import, and of no use to most tests

    return torch.cuda.is_available()


@pytest.fixture(scope="session", autouse=True)
def _compiled_code() -> None:
    """Compile all inner loops before the first test, as some tests assert that nothing is told."""
    subprocess.run([sys.executable, "-m", "asr.cli", "warm-up"], check=False, capture_output=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real recordings: $ASR_SHARED_DATA, or shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("ASR_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no real recordings in {folder}; set ASR_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def standin_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model bundle that reads what `standin.speak` writes."""
    return write_bundle(tmp_path_factory.mktemp("standin") / "bundle")


@pytest.fixture
def spoken_corpus(tmp_path: Path) -> Path:
    """Three utterances by two speakers; the stand-in makes one word error in nine."""
    spoken = {"u1": ("ONE TWO THREE", "s1"), "u2": ("FOUR FIVE SIX", "s1"), "u3": ("SEVEN EIGHT NINE", "s2")}
    rows = []
    for name, (text, speaker) in spoken.items():
        path = record(tmp_path / f"{name}.wav", text.replace("FIVE", "FINE"))
        rows.append(Utterance(name, path, len(speak(text)) / 16_000, text, speaker))
    manifest.write(tmp_path / "manifest.jsonl", rows)
    return tmp_path
