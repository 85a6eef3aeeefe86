"""Properties of bundle names and of single-file archives, on generated input."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from hwc.bundle import reference, weight_tar
from hwc.bundle.reference import Reference
from hwc.errors import UsageError

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
VERSIONS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True)
DIGESTS = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
PATHS = st.from_regex(r"(\./|\.\./|/|~/)?[A-Za-z0-9._@ -]+(/[A-Za-z0-9._-]+){0,3}", fullmatch=True)
HOSTS = st.sampled_from(["ghcr.io", "localhost:5000", "127.0.0.1:80", "[::1]:5000", "a.b-c.example"])
REPOSITORIES = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?(/[a-z0-9]+){0,2}", fullmatch=True)
LAYOUT_TAGS = st.one_of(st.just(""), VERSIONS, st.builds("{}:{}".format, VERSIONS, VERSIONS))
SAFE_NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,15}(/[a-z][a-z0-9_.-]{0,15}[a-z]){0,3}", fullmatch=True)


@st.composite
def references(draw: st.DrawFn) -> Reference:
    by_digest = draw(st.booleans())
    digest = draw(DIGESTS) if by_digest else ""
    target, scheme = draw(st.one_of(st.just(("", "")), st.tuples(NAMES, NAMES)))
    if draw(st.booleans()):
        tag = "" if by_digest else draw(st.one_of(st.just(""), VERSIONS))
        host, repository = draw(HOSTS), draw(REPOSITORIES)
        return Reference(registry=host, repository=repository, tag=tag, digest=digest, target=target, scheme=scheme)
    tag = "" if by_digest else draw(LAYOUT_TAGS)
    path = draw(st.one_of(st.just(reference.DEFAULT_STORE), PATHS))
    return Reference(layout_path=path, tag=tag, digest=digest, target=target, scheme=scheme)


@given(references())
def test_a_reference_survives_being_written_and_parsed(expected: Reference) -> None:
    assert reference.parse(str(expected)) == expected


@given(st.text(max_size=60))
def test_any_text_is_a_reference_that_round_trips_or_a_usage_error(text: str) -> None:
    try:
        found = reference.parse(text)
    except UsageError:
        return
    assert reference.parse(str(found)) == found


@settings(max_examples=40, deadline=None)
@given(SAFE_NAMES, st.binary(max_size=5000))
def test_an_archived_file_lies_at_byte_4096_and_any_tar_reader_finds_it(name: str, payload: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, archive = Path(folder, "source"), Path(folder, "archive.tar")
        source.write_bytes(payload)
        archive.write_bytes(b"".join(weight_tar.chunks(source, name)))
        with archive.open("rb") as stream:
            found = weight_tar.locate(stream, name, where="here")
        assert (found.offset_bytes, found.length_bytes) == (4096, len(payload))
        assert archive.read_bytes()[4096 : 4096 + len(payload)] == payload
        assert archive.stat().st_size == weight_tar.archive_bytes(len(payload))
        with tarfile.open(archive) as peer:
            (member,) = peer.getmembers()
            assert (member.name, member.mtime, member.uid, member.gid, member.mode) == (name, 0, 0, 0, 0o644)
            extracted = peer.extractfile(member)
            assert extracted is not None
            assert extracted.read() == payload


@given(st.integers(min_value=0, max_value=1 << 45))
def test_the_data_starts_at_byte_4096_whatever_the_length(length_bytes: int) -> None:
    assert len(weight_tar.header("weights/float.irpa", length_bytes)) == 4096
