"""What the registry commands do: resolve the names, make one call, render its result."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

from hwc import digest as digests
from hwc import render
from hwc.bundle.reference import Reference, parse
from hwc.errors import UsageError
from hwc.oci_layout import Layout
from hwc.registry import listing, tags
from hwc.registry import pull as pulling
from hwc.registry import push as pushing
from hwc.registry import retag as retagging
from hwc.registry.client import Client
from hwc.registry.listing import Listed
from hwc.spec.project import open_project


def _here(text: str) -> Reference:
    return parse(text, default_store=str(open_project(Path.cwd()).store))


def _there(text: str) -> Reference:
    found = _here(text)
    if not found.is_remote:
        raise UsageError("not a place in a registry", where=text, hint="as oci://HOST/REPO:1.0.0")
    return found


def _client(place: Reference, plain_http: bool) -> Client:
    return Client(place, plain_http=plain_http, env=os.environ)


def push(bundle: str, destination: str, *, plain_http: bool, mount_from: str, jobs: int, format: str) -> None:
    """Push a bundle."""
    source, target = _here(bundle), _there(destination)
    if source.is_remote:
        raise UsageError("what is pushed lies in a registry already", where=bundle, hint="`hwc pull` it first")
    if target.digest or target.target:
        raise UsageError("a bundle is pushed to a tag", where=destination, hint="as oci://HOST/REPO:1.0.0")
    if mount_from:
        parse(f"oci://{target.registry}/{mount_from}")
    layout = Layout(source.store).check()
    how = pushing.How(mount_from=mount_from, workers=jobs)
    with _client(target, plain_http) as client, render.Progress() as progress:
        pushed = pushing.push(layout, source, client, tags.remote_tag(source.tag, target), how, progress)
    if format == "json":
        render.as_json(asdict(pushed))
        return
    render.note(
        f"{pushed.sent_blobs} blobs sent ({render.size(pushed.sent_bytes)}), {pushed.mounted_blobs} mounted, "
        f"{pushed.present_blobs} there already"
    )
    render.result(f"{pushed.reference} {pushed.digest}{'' if pushed.changed else ' (as it was)'}")


def pull(
    bundle: str, destination: str, *, serving_alone: bool, plain_http: bool, jobs: int, format: str
) -> None:
    """Pull a bundle, a variant of it, or its serving metadata."""
    source = _there(bundle)
    target = _destination(destination)
    layout = Layout(target.store).create()
    how = pulling.How(local_tag=target.tag, serving_alone=serving_alone, workers=jobs)
    with _client(source, plain_http) as client, render.Progress() as progress:
        pulled = pulling.pull(layout, source, client, how, progress)
    if format == "json":
        render.as_json({**asdict(pulled), "store": str(layout.path)})
        return
    render.note(f"{pulled.fetched_blobs} blobs and manifests fetched ({pulled.fetched_bytes} bytes)")
    render.result(f"{pulled.tag} {pulled.digest}{'' if pulled.changed else ' (as it was)'}")


def _destination(text: str) -> Reference:
    if not text:
        return Reference(layout_path=str(open_project(Path.cwd()).store))
    found = _here(text)
    if found.is_remote or found.digest or found.target:
        raise UsageError("a bundle is pulled into a store", where=text, hint="as minilm:1.0.0 or oci:PATH:minilm:1.0.0")
    return found


def tag(text: str, version: str, *, plain_http: bool) -> None:
    """Freeze a bundle in a registry under a version."""
    source = _there(text)
    if source.target:
        raise UsageError("a bundle is tagged whole", where=text, hint="leave out what stands after #")
    frozen = parse(f"oci://{source.registry}/{source.repository}:{version}")
    with _client(source, plain_http) as client:
        digest = retagging.retag(client, source, frozen.tag)
    render.result(f"{frozen} {digest}")


def list_bundles(text: str, *, plain_http: bool, format: str) -> None:
    """List what a store or a repository holds."""
    place = _here(text) if text else Reference(layout_path=str(open_project(Path.cwd()).store))
    if place.is_remote:
        with _client(place, plain_http) as client:
            found = listing.of_repository(client, place.tag)
    else:
        found = listing.of_layout(Layout(place.store).check(), place.tag)
    if format == "json":
        render.as_json([asdict(row) for row in found])
        return
    columns = ("tag", "digest", "size", "variant", "status", "size ", "measured", "content")
    render.table(str(place), columns, [line for row in found for line in _lines(row)])


def _lines(row: Listed) -> list[list[str]]:
    """Return a bundle's lines: its own facts stand in the first alone."""
    first = [row.tag, digests.short(row.digest), _size(row.size_bytes)]
    if not row.variants:
        return [[*first, row.problem or "no variants", "", "", "", ""]]
    heads = [first, *([["", "", ""]] * (len(row.variants) - 1))]
    return [
        [
            *head,
            variant.name,
            variant.status,
            _size(variant.size_bytes),
            str(variant.measurements),
            digests.short(variant.content_sha256),
        ]
        for head, variant in zip(heads, row.variants, strict=True)
    ]


def _size(size_bytes: int | None) -> str:
    return "metadata" if size_bytes is None else render.size(size_bytes)
