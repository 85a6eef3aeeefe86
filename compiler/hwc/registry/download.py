"""One blob from a registry into a layout: resumed, bounded, hashed as it passes, visible when it is whole."""

from __future__ import annotations

import hashlib
import itertools

from hwc.digest import CHUNK_BYTES
from hwc.errors import IntegrityError
from hwc.oci_layout import Layout
from hwc.oci_manifest import Descriptor
from hwc.registry import parallel, part
from hwc.registry.client import Client
from hwc.registry.failures import Cut, Passing
from hwc.registry.parallel import Stop
from hwc.registry.part import Part

PROGRESS_BYTES = 1 << 20
"""A cut after fewer bytes than this counts as a failure in a row."""


def fetch(layout: Layout, client: Client, blob: Descriptor, stop: Stop) -> bool:
    """Bring a blob into the layout unless it is there and whole; tell whether bytes were moved.

    Raises IntegrityError for bytes that are not the blob's, RegistryError if the registry fails for good.
    """
    if is_sound(layout, blob):
        return False
    with part.opened(layout, blob, stop) as arriving:
        if is_sound(layout, blob):  # another process brought it while this one waited
            arriving.is_needless = True
            return False
        resumed = arriving.size_bytes > 0
        _fill(arriving, client, blob, stop)
        if resumed and not arriving.is_right:
            arriving.restart()  # what an earlier run left may have been damaged by a crash of the machine
            _fill(arriving, client, blob, stop)
    return True


def is_sound(layout: Layout, blob: Descriptor) -> bool:
    """Tell whether a blob is here with the right bytes; all of them are hashed."""
    if not layout.has(blob):
        return False
    hasher = hashlib.sha256()
    with layout.open_blob(blob) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            hasher.update(chunk)
    return "sha256:" + hasher.hexdigest() == blob.digest


def _fill(arriving: Part, client: Client, blob: Descriptor, stop: Stop) -> None:
    """Append until the part is whole; a cut connection is taken up where it ended."""
    tried = 0
    for _ in itertools.count():
        if arriving.is_whole:
            return
        before = arriving.size_bytes
        try:
            _once(arriving, client, blob, stop)
        except Passing as failure:
            tried = 1 if arriving.size_bytes - before >= PROGRESS_BYTES else tried + 1
            wait_s = client.patience.wait_s(tried, failure)
            if wait_s is None:
                raise (failure.settled() if isinstance(failure, Cut) else failure) from failure
            stop.wait(wait_s)


def _once(arriving: Part, client: Client, blob: Descriptor, stop: Stop) -> None:
    parallel.check(stop)
    with client.blob(blob, arriving.size_bytes) as stream:
        if stream.start != arriving.size_bytes:
            arriving.restart()
        for chunk in parallel.stoppable(stream.chunks, stop):
            arriving.write(chunk)
    if not arriving.is_whole:
        raise IntegrityError(
            f"the registry sends {arriving.size_bytes} bytes of a blob of {blob.size_bytes}", where=blob.digest
        )
