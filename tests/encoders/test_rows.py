"""Packing loses no token, repeats no beginning, and its two ways are inverse."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmfm.encoders.rows import Even, Packed

texts = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=8)


def padded(lists):
    ids = torch.zeros(len(lists), 8, dtype=torch.long)
    for row, values in zip(ids, lists, strict=True):
        row[: len(values)] = torch.tensor(values)
    return ids, torch.tensor([len(values) - 1 for values in lists])


@settings(max_examples=200, deadline=None)
@given(texts)
def test_there_is_one_row_for_every_distinct_beginning(lists):
    packed = Packed.of(*padded(lists))
    beginnings = {tuple(values[: n + 1]) for values in lists for n in range(len(values))}
    assert len(packed.ids) == len(beginnings)
    rows = {}
    for cells, values in zip(packed.cells.tolist(), lists, strict=True):
        for place, row in enumerate(cells[: len(values)]):
            assert rows.setdefault(row, tuple(values[: place + 1])) == tuple(values[: place + 1])
            assert (packed.ids[row], packed.positions[row]) == (values[place], place)
    assert set(rows.values()) == beginnings


@settings(max_examples=100, deadline=None)
@given(texts)
def test_rows_come_back_from_the_grid_and_ends_are_ends(lists):
    ids, ends = padded(lists)
    packed = Packed.of(ids, ends)
    rows = torch.randn(len(packed.ids), 5)
    assert torch.equal(packed.rows(packed.grid(rows)), rows)
    assert packed.ends.tolist() == [packed.cells[i, end] for i, end in enumerate(ends.tolist())]
    wanted = [[place <= end for place in range(int(ends.max()) + 1)] for end in ends.tolist()]
    assert packed.seen()[:, 0, 0].tolist() == wanted


def test_what_lies_behind_the_end_of_a_text_does_not_count():
    ids = torch.tensor([[5, 6, 7, 1, 2], [5, 6, 7, 3, 4]])
    packed = Packed.of(ids, torch.tensor([2, 2]))
    assert packed.ids.tolist() == [5, 6, 7]
    assert packed.ends.tolist() == [2, 2]


def test_even_rows_come_back_too():
    rows = torch.randn(12, 5)
    assert torch.equal(Even(4).rows(Even(4).grid(rows)), rows)
