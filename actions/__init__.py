"""What a step can do: a module per family (`file`, `http`, `slack` ...), larger families in several.

`k8s` and `helm` name what stands in `k8s_*` and `helm_*`; `registry` is a container registry. What several share:
`_process` (programs), `_http`, `_replace` (whole files), `_archive`; `_kube/` (a cluster), `_manifest/` (k8s.apply),
`_helm/`, `_oci/` (a registry).
"""
