"""Manifests for k8s.apply, k8s.diff and k8s.revert: read (`yaml`, `documents`), laid beside the cluster (`set`, `look`,
`places`, `prune`, `users`), applied (`put`) and taken back (`back`, `inhabitants`)."""
