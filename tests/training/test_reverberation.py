"""Reverberation of features is what a room makes of waveforms."""

import math

import pytest
import torch

from asr.errors import TrainingError
from asr.features.logmel import LogMel, LogMelConfig
from asr.training.reverberation import Reverberation, ReverberationConfig

CONFIG = LogMelConfig()


def room(share: float, t60: float = 0.5, drr: float = 0.0) -> Reverberation:
    return Reverberation(ReverberationConfig(share, t60, t60, drr, drr), CONFIG)


def test_a_click_decays_by_60_db_in_t60_and_has_the_ratio_asked_for() -> None:
    features = torch.full((1, 300, 80), -60.0)
    features[0, 100] = 0.0
    after = room(1.0, t60=0.5, drr=3.0)(features, torch.tensor([300])).double()
    assert (
        after[0, :100].max() < -59 and not after[0, 100].any()
    )  # nothing sounds before; the direct sound stays
    assert float(after[0, 151, 0] - after[0, 101, 0]) == pytest.approx(-6 * math.log(10), abs=1e-3)
    late = after[0, 101:].exp().sum(0)
    assert 10 * math.log10(1 / float(late[7])) == pytest.approx(3.0, abs=1e-3)


def test_padding_and_neighbours_are_not_heard_and_the_share_is_kept() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 120, 80)
    features[1, 70:] = 0.0
    lengths = torch.tensor([120, 70])
    together = room(1.0)(features, lengths)
    assert not together[1, 70:].any()
    torch.testing.assert_close(together[1:, :70], room(1.0)(features[1:, :70], lengths[1:]))
    assert torch.equal(room(0.0)(features, lengths), features)
    many = Reverberation(ReverberationConfig(0.3), CONFIG)(
        features[:1].expand(400, -1, -1), lengths[:1].expand(400)
    )
    assert 0.22 < (many != features[:1]).any(dim=2).any(dim=1).float().mean() < 0.38


def test_it_is_near_to_a_room_on_the_waveform() -> None:
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(48_000) / 16_000
    wave = 0.1 * torch.randn(48_000, generator=generator) * (torch.sin(2 * math.pi * 2 * time) > 0)
    t60, n = 0.4, torch.tensor([48_000])
    tail = torch.randn(16_000, generator=generator) * torch.exp(-3 * math.log(10) * time[:16_000] / t60)
    tail[:240] = 0.0  # the first 15 ms are the direct sound's
    tail /= tail.square().sum().sqrt()
    heard = (
        wave
        + torch.nn.functional.conv1d(wave[None, None], tail.flip(0)[None, None], padding=15_999)[
            0, 0, :48_000
        ]
    )
    log_mel = LogMel(CONFIG)
    dry, frames = log_mel(wave[None], n)
    wet, _ = log_mel(heard[None], n)
    guess = room(1.0, t60, drr=0.0)(dry, frames)
    difference = (guess.exp().mean(2) / wet.exp().mean(2)).log()[0, 5:]
    assert difference.abs().mean() < 0.4 and difference.mean().abs() < 0.15
    assert (dry.exp().mean(2) / wet.exp().mean(2)).log()[0, 5:].abs().mean() > 1.5  # it is far from dry


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"share": 1.5}, "share: must be from 0 to 1"),
        ({"lowest_t60": 0.0}, "lowest_t60 must be above 0 s"),
        ({"lowest_t60": 0.9}, "no more than highest_t60"),
        ({"lowest_drr": 20.0}, "lowest_drr must be no more than highest_drr"),
    ],
)
def test_settings_that_make_no_sense(fault: dict[str, float], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        ReverberationConfig(**fault)
