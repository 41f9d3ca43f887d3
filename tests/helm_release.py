"""A release `app` of a small chart on a real control plane, and what a test looks at in it."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

from tests.kube import Caller, meaning
from tests.testbed.plane import Plane

WATCHED = "deployments,services,configmaps,secrets,jobs"
_OWN = ("sh.helm.release.", "kube-root-ca")

FILES = {
    "Chart.yaml": 'apiVersion: v2\nname: app\nversion: {version}\nappVersion: "{version}-app"\n',
    "values.yaml": "tag: none\nreplicas: 1\npassword: ''\nlevel: info\nextra: false\nsick: false\nhook: ''\n",
    "templates/all.yaml": """
apiVersion: v1
kind: Secret
metadata: {{name: {{{{ .Release.Name }}}}-secret}}
stringData: {{password: {{{{ .Values.password | quote }}}}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: {{{{ .Release.Name }}}}-settings}}
data: {{level: {{{{ .Values.level | quote }}}}, chart: "{version}"}}
{{{{- if .Values.extra }}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: {{{{ .Release.Name }}}}-extra}}
data: {{a: b}}
{{{{- end }}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {{{{ .Release.Name }}}}, labels: {{app: {{{{ .Release.Name }}}}}}}}
spec:
  replicas: {{{{ .Values.replicas }}}}
  selector: {{matchLabels: {{app: {{{{ .Release.Name }}}}}}}}
  template:
    metadata: {{labels: {{app: {{{{ .Release.Name }}}}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      {{{{- if .Values.sick }}}}
      nodeSelector: {{no: such-node}}
      {{{{- end }}}}
      containers:
        - name: app
          image: {{{{ required "tag is needed" .Values.tag | printf "registry.invalid/app:%v" }}}}
          {{{{- if eq (toString .Values.tag) "broken" }}}}
          {{{{ fail "no such tag" }}}}
          {{{{- end }}}}
""",
    "templates/hook.yaml": """
{{{{- if .Values.hook }}}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{{{ .Release.Name }}}}-migrate
  annotations: {{helm.sh/hook: {{{{ .Values.hook | quote }}}}, helm.sh/hook-delete-policy: before-hook-creation}}
spec:
  activeDeadlineSeconds: 1
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      nodeSelector: {{no: such-node}}
      containers: [{{name: migrate, image: registry.invalid/migrate}}]
{{{{- end }}}}
""",
}


def chart(folder: Path, version: str = "0.1.0") -> Path:
    """Write the chart; its folder. Values: tag, password, level, extra (an object more), sick, hook (its events)."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(version=version))
    return folder


class App:
    """A release `app`, revisions 1 to `revisions`, each with an image and a password of its own."""

    def __init__(self, plane: Plane, version: int, folder: Path, revisions: int = 0) -> None:
        self.plane = plane
        self.version = version
        self.chart = chart(folder / "app")
        self.space = plane.namespace()
        self.caller = Caller(plane, folder, helm=version)
        self.given = {"namespace": self.space, "release": "app"}
        for number in range(1, revisions + 1):
            self.deploy(number)

    def deploy(self, number: int, *options: str) -> None:
        """A revision as a person makes it: image, password and level of this number."""
        values = {"tag": str(number), "password": f"secret-no-{number}", "level": f"level-{number}"}
        sets = [option for name, value in values.items() for option in ("--set-string", f"{name}={value}")]
        self.helm("upgrade", "--install", "app", str(self.chart), *sets, *options)

    def upgrade(self, values: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Parameters of helm.upgrade."""
        return {**self.given, "chart": str(self.chart), "values": values, **more}

    def helm(self, *arguments: str) -> str:
        return self.plane.helm(self.version, "-n", self.space, *arguments)

    def history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.helm("history", "app", "-o", "json"))
        return found

    def newest(self) -> tuple[int, str]:
        """Number and status of the newest revision."""
        found = self.history()[-1]
        return found["revision"], found["status"]

    def image(self) -> str:
        """The tag of the live Deployment's image."""
        found = self.plane.read(self.space, "deployment", "app")
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"]).rpartition(":")[2]

    def objects(self) -> dict[str, Any]:
        """Everything that is there, by meaning; without Helm's own records."""
        items = self.plane.read(self.space, WATCHED)["items"]
        return {
            f"{item['kind']}/{item['metadata']['name']}": meaning(item)
            for item in items
            if not item["metadata"]["name"].startswith(_OWN)
        }

    def spoil(self, status: str, description: str, **info: Any) -> None:
        """What a helm that was killed leaves: the newest revision's record, with another status."""
        newest = self.history()[-1]["revision"]
        name = f"sh.helm.release.v1.app.v{newest}"
        record = self.plane.read(self.space, "secret", name)
        raw = gzip.decompress(base64.b64decode(base64.b64decode(record["data"]["release"])))
        release = json.loads(raw)
        release["info"] |= {"status": status, "description": description, **info}
        packed = base64.b64encode(base64.b64encode(gzip.compress(json.dumps(release).encode()))).decode()
        body = {"data": {"release": packed}, "metadata": {"labels": {"status": status}}}
        self.plane.kubectl("-n", self.space, "patch", "secret", name, "--type=merge", "-p", json.dumps(body))
