"""Asking a container registry (OCI distribution): a `reference`, whom it lets in (`login`), which `images` it has."""
