"""What the helm actions share: the `client` (begin here), `where` it acts, `history`, `manifest` and the `records` that
hold it, what a chart `render`s to, `rights`, `owners`, a release that is `pending` (by which `clock`), our `work`."""
