"""What the helm actions share: the `client` (begin here), `history`, `manifest`, `rights`, and our `work`."""
