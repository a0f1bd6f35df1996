from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from scgpt.errors import ConfigError, DataError
from scgpt.tokens.tokens import tokenize
from scgpt.training.batches import BatchOptions, CellBatches

PAD, CLS = 20, 21


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    values = rng.integers(1, 9, (13, 20)) * (rng.random((13, 20)) < 0.6)
    return tokenize(csr_matrix(values.astype(np.float32)), np.arange(20), cls_id=CLS)


def source(cells, **more):
    keys = ("seed", "labels", "batch_labels", "groups")
    own = {key: more.pop(key) for key in keys if key in more}
    return CellBatches(cells, pad_id=PAD, options=BatchOptions(**{"batch_size": 4, **more}), **own)


def test_every_cell_comes_once_per_epoch_with_its_label(cells):
    labels = np.arange(13) * 10
    batches = source(cells, labels=labels)
    found = list(batches.epoch(0))
    assert len(found) == len(batches) == 4
    rows = np.concatenate([batch.rows for batch in found])
    assert sorted(rows) == list(range(13))
    assert torch.equal(torch.cat([b.labels_B for b in found]), torch.from_numpy(labels[rows]))
    for batch in found:
        for place, row in enumerate(batch.rows):
            start, stop = cells.indptr[row : row + 2]
            assert np.array_equal(
                batch.gene_ids_BL[place, : stop - start], cells.gene_ids[start:stop]
            )
            assert np.array_equal(batch.values_BL[place, : stop - start], cells.values[start:stop])


def test_order_changes_between_epochs_but_not_between_calls(cells):
    batches = source(cells)
    first = np.concatenate(batches.order(0))
    assert np.array_equal(first, np.concatenate(batches.order(0)))
    assert not np.array_equal(first, np.concatenate(batches.order(1)))
    assert not np.array_equal(first, np.concatenate(source(cells, seed=1).order(0)))


def test_without_shuffling_cells_come_in_their_order(cells):
    batches = source(cells, shuffle=False)
    assert np.array_equal(np.concatenate(batches.order(5)), np.arange(13))


def test_an_epoch_can_start_in_the_middle(cells):
    batches = source(cells, mask_ratio=0.3)
    whole, rest = list(batches.epoch(2)), list(batches.epoch(2, start=2))
    assert len(rest) == 2
    for expected, found in zip(whole[2:], rest, strict=True):
        assert np.array_equal(expected.rows, found.rows)
        assert torch.equal(expected.values_BL, found.values_BL)
    assert list(batches.epoch(2, start=4)) == []


def test_masks_hide_the_asked_share_and_keep_targets(cells):
    batch = next(source(cells, mask_ratio=0.4, batch_size=13).epoch(0))
    counts = (~batch.padding_BL).sum(dim=1)
    assert torch.equal(batch.mask_BL.sum(dim=1), (counts * 0.4).int())
    assert (batch.values_BL[batch.mask_BL] == -1).all()
    assert torch.equal(batch.values_BL[~batch.mask_BL], batch.targets_BL[~batch.mask_BL])
    assert not (batch.mask_BL & batch.padding_BL).any()
    for row, mask in enumerate(batch.mask_BL):
        meant = batch.positions_BM[row, batch.is_masked_BM[row]]
        assert torch.equal(meant, mask.nonzero().squeeze(1))
    assert batch.positions_BM.shape[1] == batch.mask_BL.sum(dim=1).max()


def test_masks_are_redrawn_per_epoch_only_if_asked(cells):
    def mask(redraw, epoch):
        options = {"mask_ratio": 0.4, "redraw_masks": redraw, "shuffle": False}
        return next(source(cells, **options).epoch(epoch)).mask_BL

    assert not torch.equal(mask(True, 0), mask(True, 1))
    assert torch.equal(mask(False, 0), mask(False, 1))


def test_groups_are_never_mixed(cells):
    groups = np.arange(13) % 3
    batches = source(cells, groups=groups, batch_labels=groups)
    orders = [batches.order(epoch) for epoch in range(3)]
    for order in orders:
        assert all(len(set(groups[rows])) == 1 for rows in order)
        assert sorted(np.concatenate(order)) == list(range(13))
        assert len(order) == len(batches)
    first_groups = [[groups[rows[0]] for rows in order] for order in orders]
    assert any(sequence != sorted(sequence) for sequence in first_groups)


def test_buckets_save_padding(cells):
    def padded(**options):
        batches = source(cells, batch_size=3, shuffle=False, **options).epoch(0)
        return sum(0 if b.padding_BL is None else int(b.padding_BL.sum()) for b in batches)

    assert padded(buckets=True) < padded(buckets=False)


def test_no_padding_mask_where_nothing_is_padded():
    full = tokenize(csr_matrix(np.ones((4, 5), np.float32)), np.arange(5), cls_id=CLS)
    assert next(source(full).epoch(0)).padding_BL is None


def test_the_fingerprint_sees_data_options_and_seed(cells):
    other = tokenize(csr_matrix(np.ones((13, 20), np.float32)), np.arange(20), cls_id=CLS)
    labels = np.zeros(13, dtype=int)
    found = {
        source(cells).fingerprint,
        source(other).fingerprint,
        source(cells, seed=1).fingerprint,
        source(cells, batch_size=5).fingerprint,
        source(cells, labels=labels).fingerprint,
        source(cells, batch_labels=labels).fingerprint,
    }
    assert len(found) == 6
    assert source(cells).fingerprint in found


def test_wrong_input_is_refused(cells):
    with pytest.raises(ConfigError, match="batch_size"):
        BatchOptions(batch_size=0)
    with pytest.raises(ConfigError, match="mask_ratio"):
        BatchOptions(batch_size=1, mask_ratio=1.0)
    with pytest.raises(DataError, match="labels"):
        source(cells, labels=np.zeros(12, dtype=int))
    with pytest.raises(DataError, match="labels"):
        source(cells, labels=np.zeros(13))
    empty = tokenize(csr_matrix((0, 20), dtype=np.float32), np.arange(20), cls_id=CLS)
    with pytest.raises(DataError, match="no cells"):
        source(empty)
