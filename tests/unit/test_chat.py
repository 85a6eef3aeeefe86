"""Messages become the text a model was trained on; a template is a program from outside and gets no further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hwc.errors import IntegrityError, UsageError
from hwc.runtime import chat
from hwc.runtime.chat import Chat

TURNS = (
    "{% for message in messages %}\n"
    "    {% if message.role not in ['user', 'system', 'assistant'] %}{{ raise_exception('no role ' + message.role) }}"
    "{% endif %}\n"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello <&> é"}]


def write_config(folder: Path, **config: Any) -> Path:
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def loaded(folder: Path) -> Chat:
    found = chat.load(folder)
    assert found is not None
    return found


def test_messages_are_rendered_with_blocks_trimmed_and_nothing_escaped(tmp_path: Path) -> None:
    found = loaded(write_config(tmp_path, chat_template=TURNS))
    system = [{"role": "system", "content": "Be brief."}]
    asked = "<|im_start|>user\nHello <&> é<|im_end|>\n"
    assert found.render([*system, *HELLO]) == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n{asked}<|im_start|>assistant\n"
    )
    assert found.render(HELLO, add_generation_prompt=False) == asked


def test_special_tokens_are_known_however_they_are_written(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>", "pad_token": None}
    found = loaded(write_config(tmp_path, chat_template="{{ bos_token }}|{{ eos_token }}|{{ pad_token }}", **config))
    assert found.render(HELLO) == "<s>|</s>|"


def test_the_default_of_several_templates_is_taken(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    assert loaded(write_config(tmp_path, chat_template=named)).render(HELLO) == "plain"


def test_a_template_in_its_own_file_wins(tmp_path: Path) -> None:
    write_config(tmp_path, chat_template="config", bos_token="<s>")
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}file")
    assert loaded(tmp_path).render(HELLO) == "<s>file"


def test_templates_find_what_they_are_written_for() -> None:
    template = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}{% endfor %}"
        "{{ '' if strftime_now is defined else ' no clock' }}"
    )
    assert Chat(template, {}).render([*HELLO, *HELLO]) == '{"role": "user", "content": "Hello <&> é"} no clock'


def test_a_model_without_a_template_has_no_chat(tmp_path: Path) -> None:
    assert chat.load(tmp_path) is None
    assert chat.load(write_config(tmp_path, bos_token="<s>")) is None


def test_what_the_template_says_against_messages_reaches_the_user() -> None:
    with pytest.raises(UsageError, match="no role tool"):
        Chat(TURNS, {}).render([{"role": "tool", "content": ""}])


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "sandbox"),
        ("{{ messages.append(1) }}", "sandbox"),
        ("{{ cycler.__init__.__globals__ }}", "sandbox"),
        ("{% include '/etc/passwd' %}", "fails"),
        ("{% if %}", "fails"),
        ("{{ 1 / 0 }}", "fails"),
        ("{{ messages[0].content.nothing.further }}", "fails"),
    ],
)
def test_a_template_that_breaks_or_breaks_out_is_stopped(template: str, words: str) -> None:
    with pytest.raises(IntegrityError, match=words):
        Chat(template, {}).render(HELLO)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10 ** 10 }}",
        "{{ '%1000000000d' | format(1) }}{{ 'x' | center(10 ** 9) }}",
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    ],
)
def test_a_template_that_takes_all_memory_is_stopped(template: str) -> None:
    with pytest.raises(IntegrityError, match=r"memory|characters"):
        Chat(template, {}).render(HELLO)


def test_a_template_that_writes_without_end_is_stopped() -> None:
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}"
    with pytest.raises(IntegrityError, match="more than 8388608 characters"):
        Chat(loops, {}).render(HELLO)


def test_a_template_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "RENDER_TIMEOUT_S", 1.0)
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(IntegrityError, match="time limit"):
        Chat(loops, {}).render(HELLO)


def test_a_huge_template_is_refused_unread(tmp_path: Path) -> None:
    huge = "x" * (chat.TEMPLATE_CAP_BYTES + 1)
    with pytest.raises(IntegrityError, match="more than"):
        Chat(huge, {})
    (tmp_path / "chat_template.jinja").write_text(huge)
    with pytest.raises(IntegrityError, match="more than"):
        chat.load(tmp_path)


@pytest.mark.parametrize("payload", ["{", "[]", '{"chat_template": 5}', "[" * 100_000])
def test_a_damaged_configuration_is_told_as_such(tmp_path: Path, payload: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(payload)
    with pytest.raises(IntegrityError):
        chat.load(tmp_path)
