"""The speed bench's parts: turns, statistics, rightness, graphs, readers of memory, engines and who runs them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))
import judging
import ort_graphs
import turns
from contestants import Contestant, Runner, running
from measured import spread
from peers import generating, reading
from peers.environment import Unavailable

from hwc.formats import Format
from hwc.quantise import codes

BENCH = Path(__file__).resolve().parents[1] / "bench"


class Clock:
    """A clock that a turn moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_everyone_has_one_turn_a_round_and_rounds_start_one_further_on() -> None:
    seen: list[tuple[str, str]] = []
    clock = Clock()

    def turn(name: str, case: str) -> list[float]:
        seen.append((name, case))
        clock.now += 1
        return [0.001 * clock.now]

    found = turns.take({"x": ["a", "b", "c"], "y": ["b"]}, turn, seconds=5, clock=clock, least=1)
    assert [name for name, case in seen if case == "x"] == ["a", "b", "c", "b", "c", "a"]
    assert seen[3] == ("b", "y")
    assert found["b", "x"] == [[2.0], [5.0]]
    assert {key: len(rounds) for key, rounds in found.items()} == dict.fromkeys(found, 2)


def test_rounds_are_as_many_as_asked_for_at_least_and_a_begun_round_is_finished() -> None:
    clock = Clock()

    def turn(_name: str, _case: str) -> list[float]:
        clock.now += 100
        return []

    found = turns.take({"x": ["a", "b"]}, turn, seconds=1, clock=clock, least=3)
    assert [len(rounds) for rounds in found.values()] == [3, 3]


@pytest.mark.parametrize(("fast", "slow", "calls"), [(0.1, 0.2, 40), (0.1, 10.0, 6), (1.0, 500.0, 1)])
def test_calls_of_a_turn_are_those_the_slowest_has_time_for(fast: float, slow: float, calls: int) -> None:
    assert turns.calls_a_turn({"a": fast, "b": slow}) == calls


def test_a_spread_holds_least_deciles_median_and_count_even_of_one_value() -> None:
    told = spread([float(value) for value in range(11)])
    assert told == {"min": 0.0, "p10": 1.0, "median": 5.0, "p90": 9.0, "n": 11}
    assert spread([3.0]) == {"min": 3.0, "p10": 3.0, "median": 3.0, "p90": 3.0, "n": 1}


def reference() -> judging.Reference:
    floats = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    return judging.Reference(floats=floats, same_codes={"a": floats * 1.01})


def test_an_answer_is_right_near_the_float_model_and_near_its_own_codes() -> None:
    right = reference()
    assert judging.judge(right.floats, right, "b", "float")["right"]
    near = judging.judge(right.floats * 1.012, right, "a", "4 bits")
    assert near["right"]
    assert near["same_codes"] == pytest.approx(0.002, rel=0.02)


@pytest.mark.parametrize("broken", [lambda x: x[::-1], lambda x: x * np.nan, lambda x: x[:2], lambda x: x * 1.5])
def test_a_wrong_answer_is_flagged(broken: Any) -> None:
    right = reference()
    assert not judging.judge(broken(right.floats), right, "a", "4 bits")["right"]


def test_logits_are_right_where_the_float_models_tokens_are_likeliest_too() -> None:
    logits = np.eye(10)[np.arange(10)] * 9
    tokens = list(range(10))
    told = judging.judge_tokens(logits, tokens, "float", logits)
    assert (told["agreed"], told["right"]) == (1.0, True)
    assert told["kl"] == pytest.approx(0.0, abs=1e-12)
    half = np.concatenate([logits[:5], np.roll(logits[5:], 1, axis=1)])
    assert judging.judge_tokens(half, tokens, "4 bits", None)["right"]
    assert not judging.judge_tokens(half, tokens, "4 bits", logits)["right"]
    assert not judging.judge_tokens(half, tokens, "8 bits", None)["right"]
    assert judging.divergence(logits, half) > 1
    assert not judging.judge_tokens(logits * np.nan, tokens, "float", None)["right"]


K, N, GROUP = 64, 16, 32


def coded_model(bias: bool) -> tuple[onnx.ModelProto, codes.Codes]:
    weight = np.random.default_rng(1).standard_normal((N, K)).astype(np.float32)
    coded = codes.nearest(weight, Format(kind="int4", group_size=GROUP))
    nibbles = coded.codes.astype(np.uint8).reshape(N, K // GROUP, GROUP)
    packed = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
    tensors = [
        numpy_helper.from_array(packed, "l.codes"),
        numpy_helper.from_array(coded.scales.astype(np.float32).reshape(N, -1), "l.scales"),
        numpy_helper.from_array(np.ones(N, np.float32), "l.bias"),
    ]
    settings = {"K": K, "N": N, "bits": 4, "block_size": GROUP, "accuracy_level": 0}
    inputs = ["x", "l.codes", "l.scales"]
    nodes = [helper.make_node("MatMulNBits", inputs, ["p"], domain="com.microsoft", **settings)]
    nodes.append(helper.make_node("Add" if bias else "Identity", ["p", "l.bias"] if bias else ["p"], ["y"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, size]) for name, size in (("x", K), ("y", N))]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], initializer=tensors if bias else tensors[:2])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10), coded


def answer(path: Path) -> np.ndarray:
    import onnxruntime as ort

    x = np.random.default_rng(2).standard_normal((2, K)).astype(np.float32)
    return np.asarray(ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


@pytest.mark.parametrize("bias", [False, True])
def test_other_encodings_of_codes_compute_the_same_from_weights_beside_the_graph(tmp_path: Path, bias: bool) -> None:
    model, coded = coded_model(bias)
    folder = ort_graphs.Folder(tmp_path / "graphs")
    wanted = answer(folder.write(model, "plain"))
    before = (tmp_path / "graphs" / "weights").stat().st_size if (tmp_path / "graphs" / "weights").exists() else 0
    exact = answer(folder.write(ort_graphs.with_accuracy(model, 1), "one"))
    after = (tmp_path / "graphs" / "weights").stat().st_size if before else 0
    np.testing.assert_allclose(exact, wanted, rtol=1e-5, atol=1e-5)
    assert before == after
    rounded = answer(folder.write(ort_graphs.as_qdq(model, {"l": coded}), "qdq"))
    assert judging.relative(rounded, wanted) < judging.MOST_AWAY
    assert ort_graphs.has_int4(model)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_reader_reads_every_word(tmp_path: Path, threads: int) -> None:
    words = reading.aligned(1 << 17)
    words[:] = np.arange(len(words), dtype=np.uint64)
    words[-1] = 1 << 63
    read, how = reading.reader(BENCH / "read_bandwidth.c", tmp_path, threads)
    assert read(words) == int(words.sum(dtype=np.uint64))
    assert how.startswith("C, cc")


def test_without_a_compiler_numpy_reads_on_one_thread_and_says_so(tmp_path: Path) -> None:
    read, how = reading.reader(BENCH / "no_such_file.c", tmp_path, 1)
    assert read(np.arange(10, dtype=np.uint64)) == 45
    assert how.startswith("numpy's sum")
    with pytest.raises(SystemExit, match="one thread"):
        reading.reader(BENCH / "no_such_file.c", tmp_path, 2)


def test_the_buffer_lies_past_the_last_cache() -> None:
    assert reading.buffer_bytes(0) == 512 << 20
    assert reading.buffer_bytes(256 << 20) == 2048 << 20


def test_the_greedy_loop_gives_each_token_its_own_place_and_forced_tokens_are_fed() -> None:
    places = []

    def decode(token: int, place: int) -> np.ndarray:
        places.append((token, place))
        return np.eye(8)[(token + 1) % 8]

    def prefill(prompt: Any) -> np.ndarray:
        return np.eye(8)[len(prompt)]

    assert [token for token, _ in generating.steps(prefill, decode)([7, 7, 7], 3)] == [3, 4, 5]
    assert places == [(3, 3), (4, 4)]
    engine = generating.Engine(greedy=generating.steps(prefill, decode), prefill=prefill, decode=decode, facts={})
    assert generating.forced(engine, [7], [2, 5]).argmax(axis=1).tolist() == [1, 3, 6]
    assert places[2:] == [(2, 1), (5, 2)]


ECHO = "import sys, time\nprint('{}', flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"


def state(process: subprocess.Popen[str]) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2][0]


def test_a_runner_sleeps_between_questions_and_tells_when_it_has_ended() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen((sys.executable, "-c", ECHO), stdin=pipe, stdout=pipe, text=True) as process:
        waiting = Runner(process)
        for number in range(2):
            assert waiting.ask({"number": number}) == {"number": number}
            deadline = time.monotonic() + 10
            while state(process) != "T" and time.monotonic() < deadline:
                time.sleep(0.01)
            assert state(process) == "T"
        process.kill()
        process.wait()
        with pytest.raises(Unavailable, match="ended with exit code -9"):
            waiting.ask({"number": 3})


def test_a_contestant_that_does_not_load_is_missing_with_its_last_words(tmp_path: Path) -> None:
    one = Contestant(name="an engine", precision="float", cases=(), config={"kind": "no such"})
    with pytest.raises(Unavailable, match="no kind of engine: no such"), running(one, 1, tmp_path):
        pass
