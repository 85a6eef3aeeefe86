"""The tokenizer inside a GGUF file, built again as a tokenizer.json: byte-level BPE, or BPE as SentencePiece has it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hwc.capture.gguf_config import Decoder, tokens
from hwc.errors import UsageError
from hwc.gguf_file import GgufFile

if TYPE_CHECKING:
    import numpy as np
    import tokenizers

TOKEN_MAX_CHARACTERS = 512
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4
"""Token types of ggml that matter here; 2 is unknown, 5 unused, 6 a byte."""
_SPACE = "▁"
_DIGIT_BY_DIGIT = ("codeshell", "command-r", "refact", "smollm", "starcoder")
_GPT2 = ("default", "gpt-2")
_LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGITS = {
    "deepseek-r1-qwen": r"\p{N}",
    "qwen2": r"\p{N}",
    "llama-bpe": r"\p{N}{1,3}",
    "llama-v3": r"\p{N}{1,3}",
    "llama3": r"\p{N}{1,3}",
    "smaug-bpe": r"\p{N}{1,3}",
}
"""Pre-tokenizers that split by one expression and differ in how many digits make a word."""
_LLAMA3 = ("llama-bpe", "llama-v3", "llama3")
"""Begin a text with BOS unless the file says otherwise, and take a word that is a token whole."""


def build(file: GgufFile, sizes: Decoder) -> tokenizers.Tokenizer:
    """Build the tokenizer: ids are the file's.

    Raises UsageError for a kind of tokenizer or of pre-tokenizer that is not known, IntegrityError for a vocabulary
    that contradicts itself or does not fit the embedding table.
    """
    names = file.texts("tokenizer.ggml.tokens")
    _check(file, names, sizes)
    types = _types(file, len(names))
    kind = file.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise UsageError(
            f"GGUF tokenizer not supported: {kind[:60]}", where=file.parts.where,
            hint="supported: gpt2 (byte-level BPE) and llama (SentencePiece BPE)",
        )
    try:
        tokenizer = _byte_level(file, names) if kind == "gpt2" else _sentencepiece(file, names, types)
        _add_tokens(tokenizer, names, types)
        _add_template(tokenizer, file, names)
    except (UsageError, RuntimeError):
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise file.damaged(f"the GGUF file's tokenizer cannot be built: {error}") from error
    return tokenizer


def config(file: GgufFile) -> dict[str, object]:
    """Return tokenizer_config.json: special tokens by name, whether texts begin with BOS, the chat template if any."""
    names = file.texts("tokenizer.ggml.tokens")
    found: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": file.integer(f"{file.text('general.architecture')}.context_length"),
        "add_bos_token": _adds_bos(file),
        "add_eos_token": file.flag("tokenizer.ggml.add_eos_token", False),
        **{f"{role}_token": names[token] for role, token in tokens(file).items()},
    }
    if "tokenizer.chat_template" in file.metadata:
        found["chat_template"] = file.text("tokenizer.chat_template")
    return found


def _check(file: GgufFile, names: list[str], sizes: Decoder) -> None:
    if len(names) > sizes.vocabulary:
        raise file.damaged(f"the vocabulary has {len(names)} tokens for {sizes.vocabulary} rows of embeddings")
    longest = max(names, key=len, default="")
    if len(longest) > TOKEN_MAX_CHARACTERS:
        raise file.damaged(f"a token of {len(longest)} characters: {longest[:40]!r}…")
    if len(set(names)) < len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise file.damaged(f"the vocabulary has the token {twice!r} twice")


def _types(file: GgufFile, count: int) -> np.ndarray:
    import numpy as np

    if "tokenizer.ggml.token_type" not in file.metadata:
        return np.full(count, _NORMAL)
    return file.numbers("tokenizer.ggml.token_type", count=count)


def _byte_level(file: GgufFile, names: list[str]) -> tokenizers.Tokenizer:
    """Build byte-level BPE, as GPT-2 has it, with the way of splitting a text into words that the file names."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    pre = file.text("tokenizer.ggml.pre", "default")
    merges = []
    for number, line in enumerate(file.texts("tokenizer.ggml.merges")):
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise file.damaged(f"merge {number} of the GGUF file's tokenizer is {line[:60]!r}, not two tokens")
        merges.append((left, right))
    vocabulary = {name: token for token, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in _LLAMA3))
    tokenizer.pre_tokenizer = _words(file, pre)
    tokenizer.decoder = decoders.ByteLevel()
    if "qwen" in pre:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _words(file: GgufFile, pre: str) -> tokenizers.pre_tokenizers.PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    if pre in _DIGITS:
        pattern = Regex("|".join((_LETTERS, _DIGITS[pre], _REST)))
        split = pre_tokenizers.Split(pattern, behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=file.flag("tokenizer.ggml.add_space_prefix", False))
    if pre in _DIGIT_BY_DIGIT:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if pre in _GPT2:
        return gpt2
    raise UsageError(
        f"GGUF pre-tokenizer not supported: {pre[:60]}", where=file.parts.where,
        hint=f"supported: {', '.join(sorted((*_DIGIT_BY_DIGIT, *_GPT2, *_DIGITS)))}",
    )


def _sentencepiece(file: GgufFile, names: list[str], types: np.ndarray) -> tokenizers.Tokenizer:
    """Build SentencePiece's BPE: the pair whose whole has the highest score is joined first, bytes are the fallback."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    scores = file.numbers("tokenizer.ggml.scores", count=len(names))
    unknown = tokens(file).get("unk")
    tokenizer = Tokenizer(
        models.BPE(
            {name: token for token, name in enumerate(names)},
            _merges(names, scores, types),
            unk_token=None if unknown is None else names[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces = normalizers.Replace(" ", _SPACE)
    undo = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if file.flag("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), spaces])
        tokenizer.decoder = decoders.Sequence([*undo, decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.normalizer, tokenizer.decoder = spaces, decoders.Sequence(undo)
    return tokenizer


def _merges(names: list[str], scores: np.ndarray, types: np.ndarray) -> list[tuple[str, str]]:
    """Return every split of a normal token into two normal tokens, the highest score of the whole first.

    SentencePiece never joins pieces a user defined or control tokens, so they are no halves either.
    """
    import numpy as np

    normal = [token for token in np.argsort(-scores, kind="stable").tolist() if types[token] == _NORMAL]
    pieces = {names[token] for token in normal}
    return [
        (name[:cut], name[cut:])
        for name in (names[token] for token in normal)
        for cut in range(1, len(name))
        if name[:cut] in pieces and name[cut:] in pieces
    ]


def _add_tokens(tokenizer: tokenizers.Tokenizer, names: list[str], types: np.ndarray) -> None:
    """Have control tokens and those a user defined found whole in a text, before anything else is looked at."""
    from tokenizers import AddedToken

    def of(kind: int, *, special: bool) -> list[Any]:
        places = (types == kind).nonzero()[0].tolist()
        return [AddedToken(names[place], normalized=False, special=special) for place in places if names[place]]

    tokenizer.add_special_tokens(of(_CONTROL, special=True))
    tokenizer.add_tokens(of(_USER_DEFINED, special=False))


def _adds_bos(file: GgufFile) -> bool:
    default = file.text("tokenizer.ggml.model") == "llama" or file.text("tokenizer.ggml.pre", "default") in _LLAMA3
    return file.flag("tokenizer.ggml.add_bos_token", default)


def _add_template(tokenizer: tokenizers.Tokenizer, file: GgufFile, names: list[str]) -> None:
    """Have a text begin with BOS and end with EOS where the file wants it."""
    from tokenizers import processors

    found = tokens(file)
    before = ["bos"] if _adds_bos(file) and "bos" in found else []
    after = ["eos"] if file.flag("tokenizer.ggml.add_eos_token", False) and "eos" in found else []
    if before or after:
        text = [*(names[found[role]] for role in before), "$A", *(names[found[role]] for role in after)]
        pair = [*text, *(part if part != "$A" else "$B" for part in text)]
        special = [(names[found[role]], found[role]) for role in dict.fromkeys((*before, *after))]
        tokenizer.post_processor = processors.TemplateProcessing(single=text, pair=pair, special_tokens=special)
