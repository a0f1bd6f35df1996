"""The gene vocabulary: which token id each gene symbol has in a model's embedding table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scgpt.errors import DataError
from scgpt.files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

PAD, CLS, EOC = "<pad>", "<cls>", "<eoc>"
SPECIALS = (PAD, CLS, EOC)


@dataclass(frozen=True, kw_only=True)
class MatchReport:
    """How many gene symbols of a data set a vocabulary knows."""

    n_genes: int
    n_matched: int
    examples_unmatched: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.n_matched} of {self.n_genes} genes are in the vocabulary"
        if self.examples_unmatched:
            text += f"; not found, for example: {', '.join(self.examples_unmatched)}"
        return text


class GeneVocab:
    """A fixed one-to-one map between tokens (gene symbols, specials) and ids 0 ... n-1.

    Parameters
    ----------
    tokens
        All tokens; the position is the id.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self._tokens = tuple(tokens)
        self._ids = {token: i for i, token in enumerate(self._tokens)}
        if len(self._ids) != len(self._tokens):
            seen: set[str] = set()
            twice = [t for t in self._tokens if t in seen or seen.add(t)]
            msg = (
                f"the vocabulary names {len(twice)} tokens twice, first {twice[0]!r}; drop repeats"
            )
            raise DataError(msg)

    @classmethod
    def from_genes(cls, symbols: Iterable[str], *, specials: Sequence[str] = SPECIALS) -> GeneVocab:
        """Give ids to genes in their order, then to the special tokens, as released models do."""
        return cls([*symbols, *specials])

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, int], *, origin: str = "vocabulary") -> GeneVocab:
        """Build from token -> id.

        Raises
        ------
        DataError
            If an id is not a whole number, occurs twice, or if the ids are not 0 ... n-1.
        """
        tokens: list[str | None] = [None] * len(mapping)
        for token, i in mapping.items():
            if type(i) is not int:
                msg = f"{origin}: the id of {token!r} is {i!r}, expected a whole number"
                raise DataError(msg)
            if not 0 <= i < len(tokens):
                msg = (
                    f"{origin}: {token!r} has id {i}, but {len(tokens)} tokens need the ids "
                    f"0 ... {len(tokens) - 1} without holes"
                )
                raise DataError(msg)
            if tokens[i] is not None:
                msg = f"{origin}: {tokens[i]!r} and {token!r} share the id {i}; ids must be unique"
                raise DataError(msg)
            tokens[i] = token
        return cls(token for token in tokens if token is not None)

    @classmethod
    def from_json(cls, path: str | Path) -> GeneVocab:
        """Read a JSON object of token -> id, the layout of the released models.

        Raises
        ------
        DataError
            If the file is missing, is not such an object, or breaks the rules of `from_mapping`.
        """
        path = Path(path)
        try:
            pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_Pairs)
        except FileNotFoundError as error:
            msg = f"{path}: no such vocabulary file"
            raise DataError(msg) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            msg = f"{path}: not a JSON file ({error})"
            raise DataError(msg) from error
        if not isinstance(pairs, _Pairs):
            msg = f"{path}: expected a JSON object of token -> id, found {type(pairs).__name__}"
            raise DataError(msg)
        mapping = dict(pairs)
        if len(mapping) != len(pairs):
            msg = f"{path}: {len(pairs) - len(mapping)} tokens occur twice; every token once"
            raise DataError(msg)
        return cls.from_mapping(mapping, origin=str(path))

    def to_json(self, path: str | Path) -> None:
        """Write token -> id in the order of the ids, readable by the official code too."""
        write_text(path, json.dumps(self._ids, indent=2))

    @property
    def tokens(self) -> tuple[str, ...]:
        """All tokens in the order of their ids."""
        return self._tokens

    @property
    def pad_id(self) -> int:
        """Id of the padding token."""
        return self._special(PAD)

    @property
    def cls_id(self) -> int:
        """Id of the cell token."""
        return self._special(CLS)

    def ids(self, symbols: Iterable[str]) -> np.ndarray:
        """Return the id of every symbol, -1 where the vocabulary does not know it.

        Returns
        -------
        Array of shape (n_symbols,), int32.
        """
        get = self._ids.get
        return np.fromiter((get(symbol, -1) for symbol in symbols), dtype=np.int32)

    def match_report(self, symbols: Iterable[str]) -> MatchReport:
        """Count the symbols the vocabulary knows and name up to ten that it does not."""
        symbols = list(symbols)
        unknown = [str(symbol) for symbol in symbols if symbol not in self._ids]
        return MatchReport(
            n_genes=len(symbols),
            n_matched=len(symbols) - len(unknown),
            examples_unmatched=tuple(unknown[:10]),
        )

    def extended(self, tokens: Iterable[str]) -> GeneVocab:
        """Return a vocabulary with the unknown ones of `tokens` appended; known ids stay."""
        new = dict.fromkeys(token for token in tokens if token not in self._ids)
        return GeneVocab([*self._tokens, *new])

    def __len__(self) -> int:
        return len(self._tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __getitem__(self, token: str) -> int:
        try:
            return self._ids[token]
        except KeyError:
            msg = f"{token!r} is not in the vocabulary of {len(self)} tokens"
            raise DataError(msg) from None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeneVocab) and self._tokens == other._tokens

    __hash__ = None

    def _special(self, token: str) -> int:
        if token not in self._ids:
            msg = f"the vocabulary of {len(self)} tokens has no {token!r}; add it to the specials"
            raise DataError(msg)
        return self._ids[token]


class _Pairs(list):
    """The members of a JSON object, kept as pairs so that repeated names can be seen."""
