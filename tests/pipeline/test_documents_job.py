"""The map job's windows over an earlier run's part, and its quarantine."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.jobs.lending import windows

CUTS = st.lists(st.booleans(), min_size=40, max_size=40)


def batches(rows: list[int], cuts: list[bool]) -> list[pa.RecordBatch]:
    found: list[list[int]] = []
    for row in rows:
        if not found or cuts[row]:
            found.append([])
        found[-1].append(row)
    return [pa.record_batch({"row": pa.array(one, pa.int64())}) for one in found]


@given(st.lists(st.sampled_from("kd-"), max_size=40), CUTS, CUTS)
def test_windows_hold_all_rows_in_their_order_and_one_batch_of_each_at_most(
    fates: list[str], cuts: list[bool], others: list[bool]
) -> None:
    kept = batches([row for row, fate in enumerate(fates) if fate == "k"], cuts)
    dropped = batches([row for row, fate in enumerate(fates) if fate == "d"], others)
    seen: list[int] = []
    for window in windows(iter(kept), iter(dropped)):
        rows = [batch.column("row").to_pylist() for batch in window if batch is not None]
        assert rows and all(rows)
        for one, stream in zip(window, (kept, dropped), strict=True):
            assert one is None or one.num_rows <= max(batch.num_rows for batch in stream)
        seen += sorted(row for some in rows for row in some)
    assert seen == [row for row, fate in enumerate(fates) if fate != "-"]
