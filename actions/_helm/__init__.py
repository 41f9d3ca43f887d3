"""What the helm actions share: the `client` (begin here), `where` it acts, `history`, `manifest`, what a chart
`render`s to, `rights`, a release that is `pending`, and our `work`."""
