"""The front end equals its formula and its peers, and padding does not exist for it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import MelSpectrogram

from asr.features.logmel import LogMel, LogMelConfig


def speechlike(samples: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    time = np.arange(samples) / 16_000
    voice = sum(np.sin(2 * np.pi * 130 * k * time + k) / k for k in range(1, 30))
    return (0.1 * voice + 0.01 * generator.standard_normal(samples)).astype(np.float32)


def extract(samples: np.ndarray) -> np.ndarray:
    features, frames = LogMel()(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    assert frames.tolist() == [features.shape[1]]
    return features[0].numpy()


def test_it_equals_its_formula_written_out() -> None:
    samples = speechlike(4_000)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)
    dft = np.exp(-2j * np.pi * np.outer(np.arange(400), np.arange(257)) / 512)
    filters = melscale_fbanks(257, 20.0, 8_000.0, 80, 16_000, None, "htk").numpy()
    expected = []
    for start in range(0, 4_000 - 400 + 1, 160):
        window = samples[start : start + 400].astype(np.float64)
        spectrum = ((window - window.mean()) * hann) @ dft
        expected.append(np.log(np.abs(spectrum) ** 2 @ filters + 1e-10))
    np.testing.assert_allclose(extract(samples), expected, atol=1e-4)


def test_it_agrees_with_kaldi() -> None:
    fbank = pytest.importorskip("kaldi_native_fbank")
    samples = speechlike(16_000)
    options = fbank.FbankOptions()
    options.frame_opts.dither = 0.0
    options.frame_opts.preemph_coeff = 0.0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 80
    options.mel_opts.low_freq = 20.0
    options.mel_opts.high_freq = 8_000.0
    kaldi = fbank.OnlineFbank(options)
    kaldi.accept_waveform(16_000, samples.tolist())
    kaldi.input_finished()
    expected = np.stack([kaldi.get_frame(i) for i in range(kaldi.num_frames_ready)])
    ours = extract(samples)
    assert ours.shape == expected.shape
    # Kaldi's triangles are straight in mel, ours in Hz: alike where filters are wide, not equal.
    assert np.corrcoef(ours[:, 10:].ravel(), expected[:, 10:].ravel())[0, 1] > 0.99


def test_it_agrees_with_torchaudio_where_nothing_is_subtracted() -> None:
    samples = speechlike(8_000)
    peer = MelSpectrogram(
        16_000, 512, 400, 160, 20.0, 8_000.0, n_mels=80, center=False, power=2.0,
        window_fn=lambda n: torch.hann_window(n, periodic=False),
    )  # fmt: skip
    # torch.stft centres the window in n_fft, so its frames start 56 samples earlier.
    padded = torch.nn.functional.pad(torch.from_numpy(samples), (56, 56))
    expected = torch.log(peer(padded) + 1e-10).T.numpy()
    ours = extract(samples)
    count = min(len(ours), len(expected))
    assert np.abs(ours[:count, 5:] - expected[:count, 5:]).max() < 0.2
    assert np.abs(ours[:count, 5:] - expected[:count, 5:]).mean() < 0.01


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=4))
def test_a_batch_equals_its_members_and_frames_are_counted_exactly(lengths: list[int]) -> None:
    log_mel = LogMel()
    waveforms = torch.full((len(lengths), max(lengths)), 9.0)  # garbage in the padding
    for seed, (row, n) in enumerate(zip(waveforms, lengths, strict=True)):
        row[:n] = torch.from_numpy(speechlike(n, seed))
    features, frames = log_mel(waveforms, torch.tensor(lengths))
    for row, output, n, count in zip(waveforms, features, lengths, frames.tolist(), strict=True):
        assert count == LogMelConfig().frames(n) == max(0, (n - 400) // 160 + 1)
        torch.testing.assert_close(output[:count], log_mel(row[None, :n], torch.tensor([n]))[0][0])
        assert not output[count:].any()


def test_a_constant_offset_changes_nothing() -> None:
    samples = speechlike(4_000)
    np.testing.assert_allclose(extract(samples), extract(samples + np.float32(0.25)), atol=2e-2)


def test_twice_as_loud_is_log_four_more() -> None:
    samples = speechlike(4_000)
    np.testing.assert_allclose(extract(2 * samples) - extract(samples), np.log(4), atol=1e-2)


def test_silence_is_the_logarithm_of_the_floor() -> None:
    np.testing.assert_allclose(extract(np.zeros(800, np.float32)), np.log(1e-10), atol=1e-4)
