"""Bundles: what was built and what was measured, packed into an OCI image layout and verified when opened."""
