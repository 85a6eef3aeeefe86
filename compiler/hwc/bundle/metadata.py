"""A bundle's serving metadata, read without its code and weights: all that a router needs, and kilobytes to pull."""

from __future__ import annotations

from hwc.bundle.entries import Table, VariantEntry
from hwc.bundle.measurement import Measurement, read_measurement
from hwc.bundle.open import chosen_entries
from hwc.bundle.reference import Reference
from hwc.oci_layout import Layout

Rows = tuple[tuple[VariantEntry, tuple[Measurement, ...]], ...]


def read_metadata(layout: Layout, table: Table, reference: Reference) -> Rows:
    """Return each variant that the reference names with its measurements, of which only ``serving.json`` is read.

    Raises UsageError for an unknown variant, IntegrityError for a document that is missing, damaged, of a newer schema
    or about something else.
    """
    rows = []
    for entry in chosen_entries(table.entries, reference):
        found = tuple(read_measurement(layout, row, entry, serving_alone=True) for row in entry.measurements)
        for measurement in found:
            measurement.parsed_serving()
        rows.append((entry, found))
    return tuple(rows)
