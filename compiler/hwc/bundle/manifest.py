"""A bundle's manifests: what a variant's files, its two views and a measurement look like in OCI terms.

A variant is one index of two manifests over the same blobs: an image that Kubernetes mounts, and a CNCF ModelPack
artefact that model tools pull. The image stands first: a ModelPack manifest mounts as an empty folder with no error.
Source: ModelPack specification, docs/spec.md and docs/config.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hwc import digest as digests
from hwc.bundle.weight_tar import MAX_NAME_BYTES, is_safe_name
from hwc.errors import IntegrityError
from hwc.oci_manifest import IMAGE_LAYER_TYPE, TITLE, Descriptor, Manifest

MODEL_TYPE = "application/vnd.hwc.model.v1+json"
VARIANT_TYPE = "application/vnd.hwc.variant.v1+json"
MEASUREMENT_TYPE = "application/vnd.hwc.measurement.v1+json"
SERVING_TYPE = "application/vnd.hwc.serving.v1+json"
DOCUMENT_TYPE = "application/vnd.hwc.document.v1+json"
MODELPACK_TYPE = "application/vnd.cncf.model.manifest.v1+json"
MODELPACK_CONFIG_TYPE = "application/vnd.cncf.model.config.v1+json"
FILEPATH = "org.cncf.model.filepath"

MODEL = "vnd.hwc.model"
VERSION = "vnd.hwc.version"
TARGET = "vnd.hwc.target"
SCHEME = "vnd.hwc.scheme"
STATUS = "vnd.hwc.status"
FROZEN = "vnd.hwc.frozen"
"""On a tag's entry in the layout: a version, whose content never changes."""
CONTENT = "vnd.hwc.content.sha256"
MACHINE = "vnd.hwc.machine.sha256"
METHOD = "vnd.hwc.method"
FILE_SHA256 = "vnd.hwc.file.sha256"
FILE_BYTES = "vnd.hwc.file.bytes"

FACTS_ROLE = "facts.json"
"""The one file that is no content: it tells how the content was made, and stands outside ``content_sha256``."""

MOUNT_PREFIX = "models/"
"""Folder of every file inside its archive; KServe expects models under ``/models``."""

_MODELPACK_LAYERS = {
    "code": "application/vnd.hwc.vmfb.v1.tar",
    "weights": "application/vnd.cncf.model.weight.v1.tar",
    "graph": "application/vnd.hwc.onnx.v1.tar",
    "tokenizer": "application/vnd.cncf.model.weight.config.v1.tar",
    "golden": "application/vnd.cncf.model.dataset.v1.tar",
    "licences": "application/vnd.cncf.model.doc.v1.tar",
    FACTS_ROLE: "application/vnd.hwc.facts.v1.tar",
}
FOLDERS = tuple(name for name in _MODELPACK_LAYERS if name != FACTS_ROLE)
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLayer:
    """One file of a variant and the archive that holds it."""

    role: str
    sha256: str
    length_bytes: int
    archive: Descriptor
    """The archive's blob; its media type here is the image layer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantKey:
    """What a variant is called and for which machine its image is."""

    model_id: str
    target: str
    scheme: str
    architecture: str


def check_role(role: str) -> str:
    """Return a role unchanged if it is a safe name in one of the known folders; raise IntegrityError otherwise."""
    folder = role.split("/", 1)[0] if "/" in role else ""
    if not is_safe_name(role) or len(MOUNT_PREFIX + role) > MAX_NAME_BYTES or folder not in FOLDERS:
        raise IntegrityError(
            f"not a file of a bundle: {role!r:.120}", hint=f"names start with one of {', '.join(FOLDERS)}"
        )
    return role


def content_sha256(files: Iterable[tuple[str, str]]) -> str:
    """Return the digest of a variant's sorted (role, file digest) list: what it is, whoever packed it."""
    return digests.of_json(sorted([role, sha256] for role, sha256 in files if role != FACTS_ROLE))


def image_config(layers: Iterable[FileLayer], architecture: str) -> bytes:
    """Return the image's config; uncompressed layers are their own ``diff_ids``."""
    return digests.canonical_json(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer.archive.digest for layer in layers]},
        }
    )


def modelpack_config(layers: Iterable[FileLayer], key: VariantKey, licences: tuple[str, ...]) -> bytes:
    """Return the ModelPack config; its schema allows no keys of ours."""
    return digests.canonical_json(
        {
            "descriptor": {"name": key.model_id, "licenses": list(licences)},
            "config": {"format": "irpa", "quantization": key.scheme},
            "modelfs": {"type": "layers", "diffIds": [layer.archive.digest for layer in layers]},
        }
    )


def image_manifest(config: Descriptor, layers: Iterable[FileLayer]) -> Manifest:
    """Return the manifest that container runtimes mount."""
    return Manifest(
        config=config,
        layers=tuple(
            layer.archive.annotated({TITLE: layer.role, FILE_SHA256: layer.sha256, FILE_BYTES: str(layer.length_bytes)})
            for layer in layers
        ),
    )


def modelpack_manifest(config: Descriptor, layers: Iterable[FileLayer]) -> Manifest:
    """Return the manifest that model tools pull, over the same blobs."""
    return Manifest(
        artifact_type=MODELPACK_TYPE,
        config=config,
        layers=tuple(
            Descriptor(
                media_type=_MODELPACK_LAYERS[layer.role.split("/", 1)[0]],
                digest=layer.archive.digest,
                size_bytes=layer.archive.size_bytes,
                annotations={TITLE: layer.role, FILEPATH: MOUNT_PREFIX + layer.role},
            )
            for layer in layers
        ),
    )


def file_layers(manifest: Manifest, *, where: str) -> tuple[FileLayer, ...]:
    """Read a variant's files back from its image manifest; raise IntegrityError for anything out of place."""
    layers = tuple(_file_layer(layer, where) for layer in manifest.layers)
    roles = [layer.role for layer in layers]
    if len(set(roles)) != len(roles) or FACTS_ROLE not in roles:
        raise IntegrityError(f"a variant names each file once, {FACTS_ROLE} among them", where=where)
    return layers


def check_views(image: Manifest, modelpack: Manifest, config: Any, *, where: str) -> None:
    """Raise IntegrityError unless both views and the image's ``diff_ids`` list the same blobs in the same order."""
    rows = [(layer.digest, layer.size_bytes, layer.annotations.get(TITLE)) for layer in image.layers]
    peers = [(layer.digest, layer.size_bytes, layer.annotations.get(TITLE)) for layer in modelpack.layers]
    rootfs = config.get("rootfs") if isinstance(config, Mapping) else None
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, Mapping) else None
    if rows != peers or diff_ids != [digest for digest, _, _ in rows]:
        raise IntegrityError("the image and the ModelPack view of a variant differ", where=where)


def name_of(annotations: Mapping[str, str], key: str, *, where: str) -> str:
    """Return an annotation that must be a plain name."""
    value = annotations.get(key, "")
    if not NAME.fullmatch(value):
        raise IntegrityError(f"annotation {key} is not a name: {value!r:.90}", where=where)
    return value


def _file_layer(layer: Descriptor, where: str) -> FileLayer:
    role = layer.annotations.get(TITLE, "")
    if role != FACTS_ROLE:
        check_role(role)
    length = layer.annotations.get(FILE_BYTES, "")
    if layer.media_type != IMAGE_LAYER_TYPE or not re.fullmatch(r"[0-9]{1,18}", length):
        raise IntegrityError(f"layer {role!r} is not an uncompressed archive of one file", where=where)
    return FileLayer(
        role=role,
        sha256=digests.checked(layer.annotations.get(FILE_SHA256, ""), where=where),
        length_bytes=int(length),
        archive=layer.bare(),
    )
