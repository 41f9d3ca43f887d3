"""An embedded world to rehearse in: a simulated Kubernetes API, helm and receivers on loopback. All is SIMULATED.

from runbook.sandbox import scenario, surroundings
with surroundings.start(scenario.read(Path("traffic.yaml"))) as sandbox:
    ...  # sandbox.surroundings stands around a run; sandbox.kubeconfig is for kubectl

- `scenario` (what the world is like), `answers`, `seeding`, `behaviour`, `surroundings` (begin here: what a run gets
  of it);
- the Kubernetes API: `api`, `http_server`, `tls`, `world` (its objects), `kinds`, `routes`, `scale`, `writes`,
  `admission`, `patches`, `selectors`, `statuses`, `tables`, `watch`, `portforward`, `faults`;
- what moves in it: `controllers`, `rollouts`, `replicas`, `pods`, `pod_logs`;
- the rest of it: `releases`, `helm_command`, `helm_program`, `receivers`, `metrics`.
"""
