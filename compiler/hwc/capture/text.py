"""Text to token ids, with the tokenizer that the model came with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwc.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    import numpy as np


class Encoder:
    """Encodes one text at a time to ``input_ids``, ``attention_mask`` and ``token_type_ids``, each int64 [tokens]."""

    def __init__(self, folder: Path, *, max_tokens: int) -> None:
        from tokenizers import Tokenizer

        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError("the model has no tokenizer, so it takes no text", where=str(folder), hint="use --input")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            raise IntegrityError(f"not a tokenizer: {error}", where=str(file)) from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=max_tokens)

    def encode(self, text: str) -> dict[str, np.ndarray]:
        """Return the token arrays of one text, cut at ``max_tokens``."""
        import numpy as np

        encoding = self._tokenizer.encode(text)
        return {
            "input_ids": np.asarray(encoding.ids, np.int64),
            "attention_mask": np.asarray(encoding.attention_mask, np.int64),
            "token_type_ids": np.asarray(encoding.type_ids, np.int64),
        }
