"""Which weights of a training job stay. One rule for the training itself and for who cleans up after it."""

from __future__ import annotations

from collections.abc import Collection


def kept_epochs(
    epochs: Collection[int],
    *,
    best: int | None = None,
    keep_last: int = 1,
    interval: int | None = None,
    pinned: Collection[int] = (),
) -> set[int]:
    """Return those of `epochs`, for which there are weights, that are kept.

    These are the best one, the last `keep_last` (at least the latest), every `interval`-th and the pinned ones.
    """
    last = sorted(epochs)[-max(1, keep_last) :]
    return {
        epoch
        for epoch in epochs
        if epoch == best or epoch in last or epoch in pinned or (interval is not None and epoch % interval == 0)
    }
