"""The whole chain can learn: one batch of speech to 0 % WER."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from asr.data_prep.digits import unpack_audio
from asr.decoding.greedy import greedy
from asr.features.logmel import LogMel
from asr.model.acoustic import Architecture
from asr.text import Tokenizer
from asr.training.data import Batch
from asr.training.module import CTCModule

Recordings = list[tuple[np.ndarray, str]]


def real_speech(archive: Path) -> Recordings:
    """The four shortest of the first utterances of an archive of LibriSpeech."""
    found: dict[str, np.ndarray] = {}
    texts: dict[str, str] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is None:
                continue
            if member.name.endswith(".trans.txt"):
                texts |= dict(line.split(" ", 1) for line in file.read().decode().splitlines())
            elif len(found) < 60 and member.name.endswith(".opus"):
                found[Path(member.name).stem] = soundfile.read(io.BytesIO(file.read()), dtype="float32")[0]
    shortest = sorted(found.keys() & texts.keys(), key=lambda id: len(found[id]))[:4]
    return [(found[id], texts[id].strip()) for id in shortest]


def digits(folder: Path) -> Recordings:
    unpack_audio(folder)
    rows = (folder / "dev" / "transcripts.tsv").read_text().splitlines()
    columns = rows[0].split("\t")
    records = [dict(zip(columns, row.split("\t"), strict=True)) for row in rows[1:5]]
    return [
        (soundfile.read(folder / "dev" / r["audio_filepath"], dtype="float32")[0], r["text"]) for r in records
    ]


def overfit(recordings: Recordings) -> tuple[list[str], float]:
    """Train a small model until it knows the batch; returns what it hears and the last loss a token."""
    torch.manual_seed(0)
    module = CTCModule(Architecture(29, layers=1, hidden=96, dropout=0.0))
    waveforms = torch.zeros(len(recordings), max(len(samples) for samples, _ in recordings))
    for row, (samples, _) in zip(waveforms, recordings, strict=True):
        row[: len(samples)] = torch.from_numpy(samples)
    features, lengths = LogMel()(waveforms, torch.tensor([len(samples) for samples, _ in recordings]))
    texts = [text for _, text in recordings]
    tokens = [torch.tensor(Tokenizer().encode(text)) for text in texts]
    targets = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
    batch = Batch(texts, texts, features, lengths, targets, torch.tensor([len(t) for t in tokens]))
    valid = torch.cat([row[:n] for row, n in zip(features, lengths.tolist(), strict=True)])
    module.model.mean.copy_(valid.mean(0))
    module.model.std.copy_(valid.std(0))
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    hypotheses, loss = [""], torch.tensor(float("inf"))
    for _ in range(250):
        optimizer.zero_grad()
        losses, log_probs, counts = module.losses(batch, batch.features)
        hypotheses = [
            greedy(row[:n].detach().numpy(), Tokenizer(), 0.04).text
            for row, n in zip(log_probs, counts.tolist(), strict=True)
        ]
        loss = losses.sum() / batch.target_lengths.sum()
        if hypotheses == texts:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    return hypotheses, float(loss.detach())


def test_one_batch_of_real_speech_is_learnt_to_no_errors(shared_data: Path) -> None:
    recordings = real_speech(shared_data / "dev-excerpt.tar")
    hypotheses, loss = overfit(recordings)
    assert hypotheses == [text for _, text in recordings], f"loss {loss}"


def test_one_batch_of_digits_is_learnt_to_no_errors(tmp_path: Path) -> None:
    recordings = digits(tmp_path / "digits")
    hypotheses, loss = overfit(recordings)
    assert hypotheses == [text for _, text in recordings], f"loss {loss}"
