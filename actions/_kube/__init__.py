"""What the actions on a Kubernetes cluster share. From the wire up:

- reaching an API server: `bounds`, `config`, `login`, `connection`, `transport`, `websocket`, `tunnel`,
  `forward`, `exec`;
- asking it: `cluster` (begin here), `kinds`, `discovery`, `errors`, `watch`, `write`, `endpoints`, `leases`;
- what a call needs and says: `action`, `preflight`, `owners`;
- places and patches of objects, all pure: `paths`, `patch`, `fields`;
- workloads: `workload`, `revisions`, `rollout`, `reasons`, `ordered`.
"""
