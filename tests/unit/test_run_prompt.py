"""``hwc run --prompt``: text on stdout as it comes, how fast it was on stderr, and nothing lost on Ctrl-C."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from bundle_parts import CREATED, MODEL, TAG, variant
from generation_parts import EOS, CachedSession, CausalModel, byte_level_tokenizer, function

import hwc
from hwc.bundle.pack import pack
from hwc.cli.main import run
from hwc.errors import UsageError
from hwc.oci_layout import Layout
from hwc.program import Program
from hwc.runtime import session as sessions
from hwc.runtime.sampling import Sampling

CONTEXT = 64
MODEL_OF_BUNDLE = CausalModel(seed=1)
TEMPLATE = "{% for m in messages %}{{ m.role[0] + ':' + m.content + ';' }}{% endfor %}"
DEVICE = {"driver": "local-sync", "device_match": "", "isa_features": [], "architecture": "", "threads": 1}


def facts(task: str) -> dict[str, Any]:
    functions = [asdict(function(1, length)) for length in (1, 8)]
    return {
        "model": {"task": task, "batch_dim": "batch", "inputs": {}},
        "capture": {},
        "generation": {"context_tokens": CONTEXT, "eos_ids": [EOS], "batches": [1], "vocab_size": 259},
        "device": DEVICE,
        "lower": {"functions": functions},
    }


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with two real variants, a language model's and an encoder's; a small model stands in for the device."""
    contents = {
        "code/module.vmfb": b"code",
        "weights/float.irpa": b"f" * 500,
        "tokenizer/tokenizer.json": byte_level_tokenizer().to_str().encode(),
        "tokenizer/tokenizer_config.json": json.dumps({"chat_template": TEMPLATE}).encode(),
    }
    parts: dict[str, Any] = {"measurements": (), "status": "unverified"}
    pack(
        Layout(tmp_path / "store").create(), model=MODEL, tag=TAG, created_utc=CREATED,
        variants=[
            variant(tmp_path / "a", contents, facts=facts("text-generation"), target="talks", **parts),
            variant(tmp_path / "b", contents, facts=facts("feature-extraction"), target="embeds", **parts),
        ],
    )

    def load(program: Program) -> CachedSession:
        return CachedSession(MODEL_OF_BUNDLE, program.functions, CONTEXT)

    monkeypatch.setattr(sessions, "Session", load)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HWC_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


TALKS, EMBEDS = f"{TAG}#talks/w4a16", f"{TAG}#embeds/w4a16"


def expected(prompt: str, count: int) -> tuple[str, list[int]]:
    tokenizer = byte_level_tokenizer()
    ids = MODEL_OF_BUNDLE.greedy(tokenizer.encode(prompt).ids, count, [EOS])
    return tokenizer.decode(ids), ids


@pytest.mark.usefixtures("store")
def test_the_text_goes_to_stdout_and_the_speed_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", TALKS, "--prompt", "hello", "--max-new-tokens", "10"]) == 0
    out, err = capsys.readouterr()
    text, ids = expected("hello", 10)
    assert out == text + "\n"
    assert f"6 prompt tokens, {len(ids)} new (length); first token after" in err
    assert "tokens/s" in err


@pytest.mark.usefixtures("store")
def test_json_tells_tokens_and_timings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", TALKS, "--prompt", "hello", "--max-new-tokens", "10", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    text, ids = expected("hello", 10)
    assert (found["text"], found["token_ids"], found["finish"]) == (text, ids, "length")
    assert (found["prompt_tokens"], found["new_tokens"]) == (6, 10)
    assert found["timings"]["itl_ms_p50"] > 0


@pytest.mark.usefixtures("store")
def test_a_seed_repeats_what_chance_gave(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for seed in ("4", "4", "5"):
        options = ["--temperature", "1.5", "--top-k", "40", "--top-p", "0.95", "--seed", seed]
        assert run(["run", TALKS, "--prompt", "hello", *options, "--max-new-tokens", "20"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.usefixtures("store")
def test_chat_puts_the_prompt_into_the_models_template() -> None:
    model = hwc.open(TALKS)
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "hello"}]
    prompt = byte_level_tokenizer().encode("s:short;u:hello;", add_special_tokens=False).ids
    assert model.generate(messages, max_new_tokens=5).token_ids == model.generate(prompt, max_new_tokens=5).token_ids


@pytest.mark.usefixtures("store")
def test_chat_on_the_command_line_is_chat_in_python(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--chat", "--system", "short", "--max-new-tokens", "8", "--format", "json"]
    assert run(["run", TALKS, "--prompt", "hello", *options]) == 0
    found = json.loads(capsys.readouterr().out)
    prompt = byte_level_tokenizer().encode("s:short;u:hello;", add_special_tokens=False).ids
    assert found["token_ids"] == MODEL_OF_BUNDLE.greedy(prompt, 8, [EOS])


@pytest.mark.usefixtures("store")
def test_a_stop_text_ends_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    text, _ = expected("hello", 20)
    stop = text[6:8]
    assert run(["run", TALKS, "--prompt", "hello", "--max-new-tokens", "20", "--stop", "\x00", "--stop", stop]) == 0
    out, err = capsys.readouterr()
    assert out == text[: text.find(stop)] + "\n"
    assert "(stop)" in err


@pytest.mark.parametrize("form", ["table", "json"])
def test_ctrl_c_shows_what_was_generated(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    del store

    def load(program: Program) -> CachedSession:
        session = CachedSession(MODEL_OF_BUNDLE, program.functions, CONTEXT)
        session.fail_at = (9, KeyboardInterrupt())
        return session

    monkeypatch.setattr(sessions, "Session", load)
    assert run(["run", TALKS, "--prompt", "hello", "--format", form]) == 130
    out, err = capsys.readouterr()
    assert "(interrupted)" in err
    text = json.loads(out)["text"] if form == "json" else out.removesuffix("\n")
    assert text
    assert out.endswith("\n")
    assert text == byte_level_tokenizer().decode(expected("hello", 9)[1])


class Stdin:
    def __init__(self, payload: bytes) -> None:
        self.buffer = io.BytesIO(payload)


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("payload", [b"hello", b"hello\n", b"hello\r\n"])
def test_a_dash_reads_stdin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], payload: bytes
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(payload))
    assert run(["run", TALKS, "--prompt", "-", "--max-new-tokens", "4"]) == 0
    assert capsys.readouterr().out == expected("hello", 4)[0] + "\n"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("bundle", "arguments", "words"),
    [
        (EMBEDS, ["--prompt", "hello"], "use --text"),
        (TALKS, ["--text", "hello"], "--prompt"),
        (TALKS, [], "--prompt"),
        (TALKS, ["--prompt", ""], "the prompt is empty"),
        (TALKS, ["--prompt", "caf\udce9"], "not valid UTF-8"),
        (TALKS, ["--prompt", "x" * 100], "101 tokens, the cache holds 64"),
        (TALKS, ["--prompt", "x", "--max-new-tokens", "64"], "64 new tokens do not fit"),
        (TALKS, ["--prompt", "x", "--system", "y"], "add --chat"),
        (TALKS, ["--prompt", "x", "--text", "y"], "--prompt goes without"),
        (TALKS, ["--prompt", "x", "--top-p", "2"], "top_p is 2.0"),
        (TALKS, ["--prompt", "x", "--stop", ""], "stop text is empty"),
        (EMBEDS, ["--text", "x", "--seed", "3"], "give --prompt"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error_that_says_what_to_do(
    capsys: pytest.CaptureFixture[str], bundle: str, arguments: list[str], words: str
) -> None:
    assert run(["run", bundle, *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert out == ""


@pytest.mark.usefixtures("store")
def test_stdin_that_is_not_utf8_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Stdin(b"caf\xe9"))
    assert run(["run", TALKS, "--prompt", "-"]) == 2
    assert "not valid UTF-8: unexpected end of data at byte 3" in capsys.readouterr().err


@pytest.mark.usefixtures("store")
def test_python_streams_what_it_generates() -> None:
    model = hwc.open(TALKS)
    pieces = list(stream := model.stream("hello", max_new_tokens=10))
    whole = model.generate("hello", max_new_tokens=10)
    assert "".join(pieces) == stream.result().text == whole.text == expected("hello", 10)[0]
    assert model.generate_all(["hello", "two"], max_new_tokens=10)[0].text == whole.text
    warm = model.generate("hello", max_new_tokens=10, sampling=Sampling(temperature=2.0, seed=1))
    assert warm.token_ids != whole.token_ids


@pytest.mark.usefixtures("store")
def test_models_say_which_call_they_take() -> None:
    with pytest.raises(UsageError, match="does not generate text"):
        hwc.open(EMBEDS).generate("hello")
    with pytest.raises(UsageError, match="generates text"):
        hwc.open(TALKS).run(["hello"])
