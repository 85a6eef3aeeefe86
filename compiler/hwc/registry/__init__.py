"""Moving bundles between an OCI image layout and an OCI registry."""
