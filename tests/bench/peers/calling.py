"""Engines that are called at fixed shapes, from host arrays to host arrays.

    {"case": "b1_s128", "warm": 1, "calls": 5}  →  {"seconds": [...]}
    {"case": "b1_s128", "save": "OUT.npy"}      →  {}: the output was written
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[], np.ndarray]
"""One call of one case with its feeds; returns the output."""
Answer = Callable[[Mapping[str, Any]], dict[str, Any]]


def prepare(config: Mapping[str, Any]) -> None:
    """Refuse an engine that there is none of, before anything is loaded."""
    ENGINES[config["engine"]]  # an unknown one ends here


def opened(config: Mapping[str, Any]) -> tuple[Answer, dict[str, Any]]:
    """Load every case's program."""
    calls = ENGINES[config["engine"]](config)

    def answer(asked: Mapping[str, Any]) -> dict[str, Any]:
        call = calls[asked["case"]]
        if "save" in asked:
            np.save(asked["save"], call())
            return {}
        for _ in range(asked["warm"]):
            call()
        took = []
        for _ in range(asked["calls"]):
            started = time.perf_counter()
            call()
            took.append(time.perf_counter() - started)
        return {"seconds": took}

    return answer, {}


def hwc(config: Mapping[str, Any]) -> dict[str, Call]:
    """Open bundles: ``cases`` gives each case's bundle, function, feeds and output."""
    from own import program

    from hwc.runtime.session import Session

    session = cache(lambda bundle: Session(program(bundle, Path(config["store"]), config["threads"])))

    def call(case: Mapping[str, Any]) -> Call:
        feeds, loaded = _feeds(case), session(case["bundle"])
        return lambda: loaded.call(case["function"], feeds)[case["output"]]

    return {name: call(case) for name, case in config["cases"].items()}


def onnxruntime(config: Mapping[str, Any]) -> dict[str, Call]:
    """Open static ONNX graphs: ``cases`` gives each case's graph, feeds and output."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = config["threads"], 1
    options.log_severity_level = 3
    for key, value in config.get("entries", {}).items():
        options.add_session_config_entry(key, value)

    def call(case: Mapping[str, Any]) -> Call:
        session = ort.InferenceSession(case["graph"], options, providers=["CPUExecutionProvider"])
        feeds = _feeds(case)
        return lambda: session.run([case["output"]], feeds)[0]

    return {name: call(case) for name, case in config["cases"].items()}


def _feeds(case: Mapping[str, Any]) -> dict[str, np.ndarray]:
    with np.load(case["feeds"]) as stored:
        return {name: stored[name] for name in stored.files}


ENGINES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Call]]] = {"hwc": hwc, "onnxruntime": onnxruntime}
