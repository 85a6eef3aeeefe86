"""How a bundle is named: ``[oci:PATH | oci://HOST/REPO][:TAG | @DIGEST][#TARGET/SCHEME]``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from hwc.errors import UsageError

DEFAULT_STORE = "./artifacts"
DEFAULT_VERSION = "dev"

_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_VERSION = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_DIGEST = r"@(?P<digest>sha256:[0-9a-f]{64})"
_FRAGMENT = re.compile(rf"(?P<target>{_NAME})/(?P<scheme>{_NAME})")
_BARE = re.compile(rf"(?P<tag>{_NAME}(?::{_VERSION})?)")
_BARE_DIGEST = re.compile(_DIGEST)
# A tag of a layout may hold one colon, as minilm:1.2.0: many models share one store. A path may hold none, and what
# ends in the name of a hash is a miswritten digest, not a path.
_PATH = r"(?P<path>[^:#\x00-\x1f\x7f]+?)(?<!@sha256)(?<!@sha512)(?<!@md5)"
_LAYOUT = re.compile(rf"oci:{_PATH}(?:{_DIGEST}|:(?P<tag>{_VERSION}(?::{_VERSION})?))?")
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
_REPOSITORY = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
_REMOTE = re.compile(rf"oci://(?P<registry>{_HOST})/(?P<repository>{_REPOSITORY})(?:{_DIGEST}|:(?P<tag>{_VERSION}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where a bundle lies and which variant of it is meant; what was not said is empty."""

    layout_path: str = ""
    """Folder of an OCI image layout; empty for a registry."""
    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    target: str = ""
    scheme: str = ""

    @property
    def is_remote(self) -> bool:
        """Whether the bundle lies in a registry."""
        return bool(self.registry)

    @property
    def store(self) -> Path:
        """The layout's folder; raise UsageError for a bundle in a registry."""
        if self.is_remote:
            raise UsageError("the bundle lies in a registry", where=str(self), hint="`hwc pull` it first")
        return Path(self.layout_path).expanduser()

    @property
    def variant(self) -> str:
        """``TARGET/SCHEME``, or empty."""
        return f"{self.target}/{self.scheme}" if self.target else ""

    def for_variant(self, target: str, scheme: str) -> Reference:
        """Return the reference to one variant of the same bundle."""
        return replace(self, target=target, scheme=scheme)

    def __str__(self) -> str:
        point = f"@{self.digest}" if self.digest else f":{self.tag}" if self.tag else ""
        fragment = f"#{self.variant}" if self.target else ""
        if self.is_remote:
            return f"oci://{self.registry}/{self.repository}{point}{fragment}"
        if self.layout_path == DEFAULT_STORE and _BARE.fullmatch(self.tag) and ":" in self.tag:
            return self.tag + fragment
        return f"oci:{self.layout_path}{point}{fragment}"


def parse(text: str, *, default_store: str | Path = DEFAULT_STORE) -> Reference:
    """Parse a bundle's name; a bare ``minilm`` means ``minilm:dev`` and a bare name lies in ``default_store``.

    Raises UsageError that says what the name looks like.
    """
    place, hash_sign, fragment = text.partition("#")
    found = _place(place, text, str(default_store))
    if not hash_sign:
        return found
    variant = _FRAGMENT.fullmatch(fragment)
    if variant is None:
        raise _bad(text, "after # stands TARGET/SCHEME, as #vulkan-ampere/w4a16")
    return found.for_variant(variant["target"], variant["scheme"])


def _place(place: str, text: str, default_store: str) -> Reference:
    if place.startswith("oci://"):
        if (remote := _REMOTE.fullmatch(place)) is None:
            raise _bad(text, "a bundle in a registry is oci://HOST/REPO:TAG or oci://HOST/REPO@sha256:…")
        return Reference(**{key: value or "" for key, value in remote.groupdict().items()})
    if place.startswith("oci:"):
        if (local := _LAYOUT.fullmatch(place)) is None:
            raise _bad(text, "a bundle in a folder is oci:PATH:TAG or oci:PATH@sha256:…; PATH has no colon or #")
        return Reference(layout_path=local["path"], tag=local["tag"] or "", digest=local["digest"] or "")
    if bare := _BARE_DIGEST.fullmatch(place):
        return Reference(layout_path=default_store, digest=bare["digest"])
    if named := _BARE.fullmatch(place):
        tag = named["tag"] if ":" in named["tag"] else f"{named['tag']}:{DEFAULT_VERSION}"
        return Reference(layout_path=default_store, tag=tag)
    raise _bad(text, "as minilm:1.2.0, oci:./artifacts:minilm:dev or oci://host/repo:1.2.0#target/scheme")


def _bad(text: str, hint: str) -> UsageError:
    return UsageError(f"not a bundle's name: {text!r:.200}", hint=hint)
