"""The vocabulary: ids, files, reports, and files that must be refused."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from scgpt.errors import DataError
from scgpt.tokens.vocab import GeneVocab


def test_ids_and_specials():
    vocab = GeneVocab.from_genes(["INS", "GCG", "SST"])
    assert len(vocab) == 6
    assert vocab.tokens == ("INS", "GCG", "SST", "<pad>", "<cls>", "<eoc>")
    assert (vocab.pad_id, vocab.cls_id) == (3, 4)
    ids = vocab.ids(["SST", "ENSG00000254647", "INS"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [2, -1, 0]
    assert vocab.ids([]).shape == (0,)
    assert "GCG" in vocab
    assert "ins" not in vocab
    assert vocab["GCG"] == 1
    with pytest.raises(DataError, match="'TTR' is not in the vocabulary"):
        vocab["TTR"]
    with pytest.raises(DataError, match="has no '<pad>'"):
        _ = GeneVocab.from_genes(["INS"], specials=()).pad_id


def test_round_trip_keeps_every_id(tmp_path):
    vocab = GeneVocab.from_genes(["Z", "A", "É"])
    vocab.to_json(tmp_path / "vocab.json")
    assert GeneVocab.from_json(tmp_path / "vocab.json") == vocab
    assert json.loads((tmp_path / "vocab.json").read_text())["A"] == 1


def test_order_in_the_file_does_not_matter(tmp_path):
    path = tmp_path / "vocab.json"
    path.write_text('{"<cls>": 2, "INS": 0, "<pad>": 1}')
    assert GeneVocab.from_json(path).tokens == ("INS", "<pad>", "<cls>")


def test_match_report_names_ten_unknown_genes():
    vocab = GeneVocab.from_genes(["INS", "GCG"])
    report = vocab.match_report(["INS", *[f"X{i}" for i in range(12)], "GCG"])
    assert (report.n_genes, report.n_matched) == (14, 2)
    assert report.examples_unmatched == tuple(f"X{i}" for i in range(10))
    assert str(report).startswith("2 of 14 genes are in the vocabulary; not found, for example: X0")
    assert str(vocab.match_report(["INS"])) == "1 of 1 genes are in the vocabulary"


def test_extension_keeps_old_ids():
    vocab = GeneVocab.from_genes(["INS"])
    wider = vocab.extended(["p_CD4", "INS", "p_CD8", "p_CD4"])
    assert wider.tokens == (*vocab.tokens, "p_CD4", "p_CD8")
    assert len(vocab) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"A": 0, "B": 0}', "'A' and 'B' share the id 0"),
        ('{"A": 0, "B": 2}', "'B' has id 2, but 2 tokens need the ids 0 ... 1"),
        ('{"A": 0, "B": -1}', "without holes"),
        ('{"A": 0, "B": "1"}', "the id of 'B' is '1', expected a whole number"),
        ('{"A": 0, "B": true}', "expected a whole number"),
        ('{"A": 0, "B": 1.0}', "expected a whole number"),
        ('{"A": 0, "A": 1}', "1 tokens occur twice"),
        ('["A", "B"]', "expected a JSON object"),
        ('{"A": 0', "not a JSON file"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, expected):
    path = tmp_path / "vocab.json"
    path.write_text(text)
    with pytest.raises(DataError, match=expected) as error:
        GeneVocab.from_json(path)
    assert str(path) in str(error.value)


def test_missing_file_and_repeated_genes(tmp_path):
    with pytest.raises(DataError, match="no such vocabulary file"):
        GeneVocab.from_json(tmp_path / "none.json")
    with pytest.raises(DataError, match="names 1 tokens twice, first 'INS'"):
        GeneVocab.from_genes(["INS", "GCG", "INS"])


def test_sixty_thousand_tokens_load_quickly(tmp_path):
    GeneVocab.from_genes(f"GENE{i}" for i in range(60_694)).to_json(tmp_path / "vocab.json")
    best = np.inf
    for _ in range(3):
        start = time.process_time()
        vocab = GeneVocab.from_json(tmp_path / "vocab.json")
        best = min(best, time.process_time() - start)
    assert len(vocab) == 60_697
    assert best < 0.2


def test_released_vocabulary_is_rebuilt_to_the_byte(shared_dir, tmp_path):
    # 1,317,639 bytes: the size of the file released with the whole-human model.
    source = json.loads((shared_dir / "data/vocab/default_census_vocab.json").read_text())
    vocab = GeneVocab.from_genes(sorted(source, key=source.get))
    ids = [vocab[token] for token in ("A1BG", "<pad>", "<cls>", "<eoc>")]
    assert ids == [0, 60694, 60695, 60696]
    vocab.to_json(tmp_path / "vocab.json")
    assert (tmp_path / "vocab.json").stat().st_size == 1_317_639
