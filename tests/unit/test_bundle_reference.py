"""A bundle's name is parsed once, and a bad one is told apart with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from hwc.bundle import reference
from hwc.bundle.reference import Reference
from hwc.errors import UsageError

DIGEST = "sha256:" + "0a" * 32


def test_a_bare_name_lies_in_the_default_store() -> None:
    assert reference.parse("minilm:1.2.0#vulkan-ampere/w4a16") == Reference(
        layout_path="./artifacts", tag="minilm:1.2.0", target="vulkan-ampere", scheme="w4a16"
    )


def test_a_bare_name_without_a_version_means_the_working_version() -> None:
    assert reference.parse("minilm").tag == "minilm:dev"


def test_the_default_store_can_be_another_folder() -> None:
    assert reference.parse("minilm", default_store="/srv/store").store == Path("/srv/store")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci:./artifacts", Reference(layout_path="./artifacts")),
        ("oci:/srv/a@b:v1", Reference(layout_path="/srv/a@b", tag="v1")),
        ("oci:../s:minilm:1.0", Reference(layout_path="../s", tag="minilm:1.0")),
        (f"oci:s@{DIGEST}", Reference(layout_path="s", digest=DIGEST)),
        (f"@{DIGEST}", Reference(layout_path="./artifacts", digest=DIGEST)),
        ("oci://ghcr.io/o/minilm:1.0", Reference(registry="ghcr.io", repository="o/minilm", tag="1.0")),
        ("oci://localhost:5000/m", Reference(registry="localhost:5000", repository="m")),
        (f"oci://h/m@{DIGEST}#t/s", Reference(registry="h", repository="m", digest=DIGEST, target="t", scheme="s")),
    ],
)
def test_each_form_is_parsed(text: str, expected: Reference) -> None:
    assert reference.parse(text) == expected


@pytest.mark.parametrize("text", ["minilm:1.2.0#vulkan-ampere/w4a16", f"oci:./s@{DIGEST}", "oci://h:1/r:t#a/b"])
def test_canonical_text_is_written_as_it_was_read(text: str) -> None:
    assert str(reference.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "MiniLM",
        "minilm:",
        "minilm:1.0#cpu",
        "minilm:1.0#cpu/../../x",
        "minilm:1.0#a/b#c/d",
        "oci:",
        "oci:a:b:c:d",
        "oci:s@sha256:00",
        "oci:s@md5:" + "0" * 32,
        "oci://",
        "oci://host",
        "oci://host/UPPER",
        "oci://host/../r",
        "oci://user:secret@host/r",
        "https://host/r",
        "a b",
        "minilm:1.0\n",
    ],
)
def test_a_bad_name_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(UsageError, match="not a bundle's name") as caught:
        reference.parse(text)
    assert caught.value.hint


def test_a_bundle_in_a_registry_has_no_folder() -> None:
    with pytest.raises(UsageError, match="registry"):
        _ = reference.parse("oci://h/r:1").store
