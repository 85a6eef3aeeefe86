"""Go on with a prompt: needs NumPy, onnxruntime and tokenizers, and the files that lie beside this one."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Model:
    """An exported language model, and the cache of one text."""

    def __init__(self, folder: Path, *, context_tokens: int | None = None, threads: int = 0) -> None:
        self.facts: dict[str, Any] = json.loads((folder / "hwc-export.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        for name, value in self.facts["session_options"].items():
            options.add_session_config_entry(name, value)
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self.context_tokens = context_tokens or self.facts["generation"]["context_tokens"]
        self._outputs = [self.facts["outputs"][0]["name"], *(entry["output"] for entry in self.facts["state"])]

    def greedy(self, ids: Sequence[int], count: int) -> Iterator[int]:
        """Yield the likeliest tokens after a text, until it ends or the cache is full."""
        sizes = {"batch": 1, "context": self.context_tokens}
        cache = {
            entry["input"]: np.zeros([sizes.get(dim, dim) for dim in entry["shape"]], np.float32)
            for entry in self.facts["state"]
        }
        following, held = list(ids), 0
        for _ in range(count):
            if held + len(following) > self.context_tokens:
                return
            feeds = {
                "input_ids": np.array([following], np.int64), "start": np.array([held], np.int64),
                "logit_index": np.array([[len(following) - 1]], np.int64),
            }
            logits, *state = self._session.run(self._outputs, {**feeds, **cache})
            cache = {entry["input"]: value for entry, value in zip(self.facts["state"], state, strict=True)}
            held += len(following)
            following = [int(logits[0, 0].argmax())]
            yield following[0]
            if following[0] in self.facts["generation"]["eos_ids"]:
                return


def main() -> None:
    """Print what the model goes on with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prompt")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--ids", action="store_true", help="print the new tokens' ids in place of text")
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    told = parser.parse_args()
    folder = Path(__file__).resolve().parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
    model = Model(folder, threads=told.threads)
    ids, started = tokenizer.encode(told.prompt).ids, time.perf_counter()
    found = list(model.greedy(ids, told.max_new_tokens))
    wall_s = time.perf_counter() - started
    sys.stdout.write((json.dumps(found) if told.ids else tokenizer.decode([*ids, *found])) + "\n")
    sys.stderr.write(f"{len(found)} tokens in {wall_s:.2f} s\n")


if __name__ == "__main__":
    main()
