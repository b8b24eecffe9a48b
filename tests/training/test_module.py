"""The learning rate schedule, and settings that contradict each other."""

import pytest

from asr.errors import TrainingError
from asr.model.acoustic import Architecture
from asr.training.module import CTCModule, OptimizerConfig


def test_the_rate_warms_up_and_decays_by_half_a_cosine() -> None:
    c = OptimizerConfig(warmup_steps=10, decay_share=1.0, final_share=0.1)
    shares = [c.share_of_peak(step, 110) for step in range(111)]
    assert shares[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert shares[10] == pytest.approx(1) and shares[60] == pytest.approx(0.55) and shares[110] == 0.1
    assert shares[10:] == sorted(shares[10:], reverse=True)


def test_the_decay_covers_its_share_at_the_end() -> None:
    c = OptimizerConfig(warmup_steps=10, decay_share=0.25, final_share=0.0)
    shares = [c.share_of_peak(step, 110) for step in range(111)]
    assert shares[10:86] == pytest.approx([1.0] * 76)  # the last 25 of 100 steps decay
    assert shares[86] < 1 and shares[97] == pytest.approx(0.5, abs=0.04) and shares[110] == 0
    constant = OptimizerConfig(warmup_steps=0, decay_share=0)
    assert {constant.share_of_peak(step, 110) for step in (0, 50, 109, 500)} == {1.0}


def test_more_steps_than_planned_keep_the_final_rate() -> None:
    c = OptimizerConfig(warmup_steps=5, final_share=0.02)
    assert c.share_of_peak(1000, 100) == pytest.approx(0.02)


def test_the_vocabulary_must_fit_the_units() -> None:
    with pytest.raises(TrainingError, match=r"^architecture\.vocabulary: 5 outputs for 3 units"):
        CTCModule(Architecture(5, layers=1, hidden=4), units="ABC")
