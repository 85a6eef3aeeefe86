"""What tests of the registry share: a small bundle, a served copy of it, and a client that does not wait long."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "unit"))
from bundle_parts import CONTENTS, CREATED, MODEL, TAG, measurement, variant

from hwc.bundle import reference
from hwc.bundle.pack import pack
from hwc.bundle.reference import Reference
from hwc.events import silent
from hwc.oci_layout import Layout
from hwc.registry import contents
from hwc.registry import pull as pulling
from hwc.registry import push as pushing
from hwc.registry.client import Client
from hwc.registry.patience import Patience
from registry_server import REPOSITORY, Server

IMPATIENT = Patience(first_wait_s=0.01, read_s=5.0, connect_s=2.0, longest_wait_s=3.0)
WEIGHTS = "weights/linears.irpa"


def small_store(folder: Path, *, weight_bytes: int = 9000, tag: str = TAG, note: bytes = b"") -> Layout:
    """Pack two variants that share their weights."""
    layout = Layout(folder / "store").create()
    cpu = CONTENTS | {WEIGHTS: (b"q" * 7 + b"w") * (weight_bytes // 8), "code/module.vmfb": b"code" + note}
    gpu = cpu | {"code/module.vmfb": b"gpu code" + note}
    variants = [
        variant(folder / "cpu", cpu, measurements=(measurement(cpu),)),
        variant(folder / "gpu", gpu, target="gpu", measurements=(measurement(gpu),)),
    ]
    pack(layout, model=MODEL, tag=tag, variants=variants, created_utc=CREATED, keep_others=False)
    return layout


def blob_of(layout: Layout, role: str = WEIGHTS, tag: str = TAG) -> str:
    """Return the digest of the blob that holds a file of the first variant."""
    from hwc.bundle.open import open_bundle

    return open_bundle(layout, reference.parse(tag)).variants[0].files[role].archive.digest


def serve(server: Server, layout: Layout, local_tag: str = TAG, tag: str = "1.2.0") -> None:
    """Put a bundle into a server's memory, as a push would."""
    root = layout.tags()[local_tag]
    whole = contents.below([root], layout.read_bytes)
    for row in whole.manifests:
        server.state.manifests[row.digest] = (row.media_type, layout.read_bytes(row))
    server.state.manifests[tag] = server.state.manifests[root.digest]
    for blob in whole.blobs:
        server.state.blobs[blob.digest] = layout.blob_path(blob.digest).read_bytes()


def place(server: Server, point: str = ":1.2.0") -> Reference:
    return reference.parse(f"oci://{server.host}/{REPOSITORY}{point}")


def client_of(server: Server, *, env: dict[str, str] | None = None, patience: Patience = IMPATIENT) -> Client:
    return Client(place(server, ""), plain_http=True, env={"DOCKER_CONFIG": "/nonexistent", **(env or {})},
                  patience=patience)


def pull(layout: Layout, server: Server, point: str = ":1.2.0", **how: Any) -> pulling.Pulled:
    with client_of(server) as client:
        return pulling.pull(layout, place(server, point), client, pulling.How(**how), silent)


def push(layout: Layout, server: Server, local_tag: str = TAG, tag: str = "1.2.0", **how: Any) -> pushing.Pushed:
    with client_of(server) as client:
        source = Reference(layout_path=str(layout.path), tag=local_tag)
        return pushing.push(layout, source, client, tag, pushing.How(**how), silent)
