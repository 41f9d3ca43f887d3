"""An embedded world to rehearse in: a simulated Kubernetes API, helm and receivers on loopback. All is SIMULATED.

from runbook.sandbox import scenario, surroundings
with surroundings.start(scenario.read(Path("traffic.yaml"))) as sandbox:
    ...  # sandbox.surroundings stands around a run; sandbox.kubeconfig is for kubectl
"""
