"""Features that stay in the device's memory, so that training asks nothing of the host's disks and memory."""

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from asr.features.store import Entry, FeatureStore
from asr.model.subsampling import padding_mask


class ResidentFeatures:
    """All frames of stores at some speeds, end to end: `float16[frames, F]`, loaded by the first `gather`.

    960 hours with copies at two speeds are 166 GB, without 55 GB.
    """

    def __init__(self, stores: Sequence[FeatureStore], speeds: Collection[float]) -> None:
        self._stores = stores
        self._first_rows: dict[tuple[FeatureStore, int], int] = {}
        self._frames = 0
        for store in stores:
            for number in sorted({entry.shard for entry in store.entries.values() if entry.speed in speeds}):
                self._first_rows[store, number] = self._frames
                self._frames += len(store.shard(number))
        self._rows: Tensor | None = None

    def __len__(self) -> int:
        """Frames."""
        return self._frames

    def row(self, store: FeatureStore, entry: Entry) -> int:
        """Where an utterance begins."""
        return self._first_rows[store, entry.shard] + entry.start

    def gather(self, starts: Tensor, lengths: Tensor, device: torch.device) -> Tensor:
        """`int64[B]` first rows and numbers of frames, on the host -> `float16[B, T, F]` on the device, zero
        beyond each length."""
        if self._rows is None or self._rows.device != device:
            self._rows = self._load(device)
        longest = int(lengths.max())
        starts, lengths = starts.to(device, non_blocking=True), lengths.to(device, non_blocking=True)
        index = starts[:, None] + torch.arange(longest, device=device)
        features: Tensor = self._rows[index.clamp_(max=self._frames - 1)]
        return features * padding_mask(lengths, longest)[:, :, None]

    def _load(self, device: torch.device) -> Tensor:
        rows = torch.empty(self._frames, self._stores[0].config.mels, dtype=torch.float16, device=device)
        for (store, number), first in self._first_rows.items():
            shard = torch.from_numpy(np.array(store.shard(number)))
            rows[first : first + len(shard)].copy_(shard)
        return rows
