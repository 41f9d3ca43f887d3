"""A running sandbox, and what it looks like to a run: everything that a run reaches out to is replaced."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets as randomness
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runbook.contract import PermanentError
from runbook.interpreter.errors import InvalidError, RefusedError
from runbook.sandbox import helm_program, seeding, tls
from runbook.sandbox.answers import Answer, Answers
from runbook.sandbox.api import Api, Asked
from runbook.sandbox.controllers import Controllers
from runbook.sandbox.faults import Faults
from runbook.sandbox.helm_command import Access, Helm
from runbook.sandbox.http_server import Server
from runbook.sandbox.metrics import Metrics
from runbook.sandbox.pods import SimulatedPods
from runbook.sandbox.receivers import SERVICES, Received, Receivers
from runbook.sandbox.releases import Releases
from runbook.sandbox.scenario import Scenario, built_in, read
from runbook.sandbox.world import World

_HINT_PLUGIN = (
    "nobody says that it reaches nothing outside: give it an `answers:` entry in the scenario, or in its class "
    "`rehearsed = True` once it asks ctx.permit (CONTRIBUTING.md)"
)
_HINT = "the sandbox reaches nothing but itself; give the action an `answers:` entry in the scenario"
_PREFIX = "runbook-simulated-"
ANSWERS = 5.0  # seconds within which a served world takes a connection
_KEPT = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "TERM", "TMPDIR", "TZ", "USER", "LOGNAME", "NO_COLOR", "SHELL")
"""What a run in a sandbox keeps of the real environment; no credential, proxy or address is among it."""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Where a running sandbox is: all that a process needs to run in it."""

    kubeconfig: str
    tools: str
    services: str  # http://127.0.0.1:port
    secrets: Mapping[str, str]
    answers: tuple[Mapping[str, Any], ...]
    scenario: str


class SimulatedSurroundings:
    """`runner.surroundings.Surroundings` for a run in a sandbox."""

    simulated = True

    def __init__(self, coordinates: Coordinates, environ: Mapping[str, str], place: str = "") -> None:
        """`environ`: the real environment, of which only what is harmless is kept. `place`: as the protocol has it."""
        self.place = place
        self.coordinates = coordinates
        self.world_id = Path(coordinates.kubeconfig).parent.name
        self._answers = Answers(Answer(**answer) for answer in coordinates.answers)
        kept = {name: environ[name] for name in _KEPT if name in environ}
        names = {name: value for name, value in coordinates.secrets.items() if name.isidentifier()}
        self.environ: Mapping[str, str] = (
            kept
            | names
            | {
                "KUBECONFIG": coordinates.kubeconfig,
                "PATH": os.pathsep.join([coordinates.tools, environ.get("PATH", os.defpath)]),
                "RUNBOOK_SIMULATED": coordinates.scenario,
            }
        )

    def address(self, service: str, url: str) -> str:
        """The stand-in of a service, with the path and query of `url`. PermanentError for one that has none."""
        if service not in SERVICES:
            if _is_ours(url, self.coordinates.services):
                return url
            raise PermanentError(f"SIMULATED: there is no stand-in for {service} ({_host(url)})", _HINT)
        parts = urlsplit(url)
        query = f"?{parts.query}" if parts.query else ""
        return f"{self.coordinates.services}/{service}{parts.path}{query}"

    def permit(self, what: str, target: str) -> None:
        """Only what stays inside: our own helm, our own addresses. PermanentError otherwise."""
        if what == "url" and _is_ours(target, self.coordinates.services):
            return
        if what == "process" and target in {"helm", str(Path(self.coordinates.tools) / "helm")}:
            return
        if what == "plug-in":
            raise PermanentError(f"SIMULATED: refused in the sandbox: {what} {target}", _HINT_PLUGIN)
        shown = _host(target) if what == "url" else target
        raise PermanentError(f"SIMULATED: refused in the sandbox: {what} {shown}", _HINT)

    def answer(self, action: str, args: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """What the scenario answers to a call; None = make the call. `{"declined": reason}` is a person's no."""
        found = self._answers.find(action, args)
        return None if found is None else found.give()

    def answers(self, action: str) -> bool:
        """Whether the scenario answers calls of this action."""
        return any(answer["action"] == action for answer in self.coordinates.answers)

    def secret(self, kind: str, where: Any) -> str | None:
        """A secret's simulated value by its coordinates (kind env, file or k8s); None when the scenario has none.

        A Kubernetes Secret that the scenario's `secrets:` does not name is read from the simulated API like any other.
        """
        if kind == "k8s":
            return self.coordinates.secrets.get(f"{where.get('namespace')}/{where.get('secret')}/{where.get('key')}")
        found = self.coordinates.secrets.get(str(where))
        if found is not None or kind != "file":
            return found
        # a scenario names it as the playbook does that declares it, in whatever folder that stands
        known = self.coordinates.secrets.items()
        return next((value for name, value in known if str(where).endswith(f"/{name.removeprefix('./')}")), None)


def _host(url: str) -> str:
    """What may be shown of an address: its host, as a path can be a secret."""
    return urlsplit(url).hostname or "?"


def _is_ours(url: str, services: str) -> bool:
    return url == services or url.startswith(services + "/")


@dataclass
class Sandbox(contextlib.AbstractContextManager["Sandbox"]):
    """A running simulated world. Use `start`."""

    scenario: Scenario
    world: World
    controllers: Controllers
    releases: Releases
    api: Api
    helm: Helm
    receivers: Receivers
    surroundings: SimulatedSurroundings
    folder: Path
    kubeconfig: Path
    kubeconfig_nobody: Path
    _servers: tuple[Server, ...] = field(repr=False, default=())
    _closed: threading.Event = field(repr=False, default_factory=threading.Event)

    simulated = True

    @property
    def world_id(self) -> str:
        """As `SimulatedSurroundings.world_id`."""
        return self.surroundings.world_id

    @property
    def place(self) -> str:
        """As `SimulatedSurroundings.place`."""
        return self.surroundings.place

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of actions and their child processes in here."""
        return self.surroundings.environ

    def address(self, service: str, url: str) -> str:
        """As `SimulatedSurroundings.address`."""
        return self.surroundings.address(service, url)

    def permit(self, what: str, target: str) -> None:
        """As `SimulatedSurroundings.permit`."""
        self.surroundings.permit(what, target)

    def secret(self, kind: str, where: Any) -> str | None:
        """As `SimulatedSurroundings.secret`."""
        return self.surroundings.secret(kind, where)

    def answer(self, action: str, args: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """As `SimulatedSurroundings.answer`."""
        return self.surroundings.answer(action, args)

    def answers(self, action: str) -> bool:
        """As `SimulatedSurroundings.answers`."""
        return self.surroundings.answers(action)

    @property
    def coordinates(self) -> Path:
        """The file by which another process can `attach` to this world."""
        return self.folder / "coordinates.json"

    @property
    def asked(self) -> Sequence[Asked]:
        """Every request to the Kubernetes API, in order."""
        return tuple(self.api.asked)

    def received(self, service: str) -> list[Received]:
        """What a receiver got, in order."""
        return [one for one in self.receivers.received if one.service == service]

    @property
    def unmodelled(self) -> Sequence[str]:
        """What was asked for and is not simulated; a report lists it."""
        return tuple(self.world.unmodelled)

    def close(self) -> None:
        """End all servers and threads, remove the private folder. Once is enough, twice does no harm."""
        if self._closed.is_set():
            return
        self._closed.set()
        self.controllers.stop()
        for server in self._servers:
            server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(self, *exc: object) -> None:
        self.close()


def start(
    scenario: Scenario | Path | str | None = None, environ: Mapping[str, str] | None = None, port: int = 0
) -> Sandbox:
    """Start the world of a scenario: a simulated API, helm and receivers on loopback. End it with `close` or `with`.

    `scenario`: a checked one, a file's path, or None for a small built-in world. `environ`: the real
    environment (default: this process's). `port`: of the API, 0 = any. InvalidError where the scenario is wrong.
    """
    if scenario is None:
        scenario = built_in()
    elif not isinstance(scenario, Scenario):
        scenario = read(Path(scenario))
    world = World(scenario.name)
    controllers = Controllers(world, scenario.behaviours, scenario.speed, scenario.ready_after)
    releases = Releases(world)
    seeding.seed(world, controllers, releases, scenario.world)
    faults = Faults(scenario.faults)
    metrics = Metrics(world, scenario.world.get("metrics") or [])
    token, nobody = randomness.token_hex(16), randomness.token_hex(16)
    pods = SimulatedPods(world, controllers.version_of, metrics, faults)
    users = {token: "runbook", nobody: "nobody"}
    forbidden = scenario.world.get("forbidden") or []
    api = Api(world, controllers, faults, users=users, forbidden=forbidden, pods=pods)
    contexts = ("simulated", *(scenario.world.get("contexts") or ()))
    _sweep()
    with contextlib.ExitStack() as undo:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        authority, context = tls.issue(folder)
        owners = {str(folder / "kubeconfig"): "runbook", str(folder / "kubeconfig-nobody"): "nobody"}
        helm = Helm(world, releases, faults, Access(owners, contexts, api.allowed))
        receivers = Receivers(world, metrics, helm, faults, token)
        servers = (Server(receivers), Server(api, context, port))
        undo.callback(servers[0].server_close)
        undo.callback(servers[1].server_close)
        (folder / "ca.crt").write_bytes(authority)
        kubeconfig = _kubeconfig(folder / "kubeconfig", servers[1].port, token, contexts)
        kubeconfig_nobody = _kubeconfig(folder / "kubeconfig-nobody", servers[1].port, nobody, contexts)
        tools = folder / "tools"
        tools.mkdir(mode=0o700)
        helm_program.write(tools, servers[0].port, token)
        undo.pop_all()
    coordinates = Coordinates(
        kubeconfig=str(kubeconfig),
        tools=str(tools),
        services=f"http://127.0.0.1:{servers[0].port}",
        secrets=dict(scenario.secrets),
        answers=tuple(_plain(answer) for answer in scenario.answers),
        scenario=scenario.name,
    )
    surroundings = SimulatedSurroundings(coordinates, os.environ if environ is None else environ)
    controllers.start()
    for server in servers:
        server.start()
    made = Sandbox(
        scenario,
        world,
        controllers,
        releases,
        api,
        helm,
        receivers,
        surroundings,
        folder,
        kubeconfig,
        kubeconfig_nobody,
        servers,
    )
    _write_private(made.coordinates, json.dumps(_as_data(coordinates)))
    return made


def attach(path: Path, environ: Mapping[str, str] | None = None) -> SimulatedSurroundings:
    """The surroundings of a sandbox that runs in another process: `path` is its folder's `coordinates.json`.

    RefusedError where that world has ended.
    """
    try:
        given = json.loads(path.read_text("utf-8"))
        given["answers"] = tuple(given["answers"])
        coordinates = Coordinates(**given)
        services = urlsplit(coordinates.services)
        socket.create_connection((services.hostname or "", services.port or 0), timeout=ANSWERS).close()
    except OSError as error:
        hint = (
            "`runbook sandbox up SCENARIO` serves a new one; what was rehearsed in that one cannot go on, start it anew"
        )
        raise RefusedError(f"the simulated world of {path} has ended ({error.strerror or error})", hint) from None
    except (ValueError, KeyError, TypeError):
        hint = "`runbook sandbox up SCENARIO` names one"
        raise InvalidError(f"{path} does not say where a simulated world is", hint=hint) from None
    return SimulatedSurroundings(coordinates, os.environ if environ is None else environ, str(path.absolute()))


def serve(scenario: Scenario, kubeconfig: Path | None = None, stop: threading.Event | None = None) -> Iterator[Sandbox]:
    """Serve a world until Ctrl-C or SIGTERM (or `stop`): yields the sandbox once it is up, ends when that came.

    `kubeconfig`: also written there, private, so that kubectl and other clients find it.
    """
    ended = stop or threading.Event()
    with start(scenario) as sandbox:
        if kubeconfig is not None:
            _write_private(kubeconfig, sandbox.kubeconfig.read_text())
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                before[number] = signal.signal(number, lambda *_: ended.set())
        try:
            yield sandbox
            while not ended.wait(0.5):
                pass
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if kubeconfig is not None:
                kubeconfig.unlink(missing_ok=True)


def _sweep() -> None:
    """Remove what sandboxes left behind whose process was killed: their tokens open nothing any more."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        number = left.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if number.isdigit() and left.stat().st_uid == os.getuid() and not _alive(int(number)):
                shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _plain(answer: Answer) -> dict[str, Any]:
    return {
        "action": answer.action,
        "match": dict(answer.match),
        "times": answer.times,
        "outputs": None if answer.outputs is None else dict(answer.outputs),
        "error": answer.error,
        "temporary": answer.temporary,
        "decline": answer.decline,
    }


def _as_data(coordinates: Coordinates) -> dict[str, Any]:
    return {name: getattr(coordinates, name) for name in Coordinates.__slots__}


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)


def _kubeconfig(path: Path, port: int, token: str, contexts: Sequence[str]) -> Path:
    authority = _base64((path.parent / "ca.crt").read_bytes())
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": authority}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "simulated", "cluster": cluster}],
        "users": [{"name": "simulated", "user": {"token": token}}],
        "contexts": [{"name": name, "context": {"cluster": "simulated", "user": "simulated"}} for name in contexts],
        "current-context": "simulated",
    }
    _write_private(path, json.dumps(config, indent=1))
    return path


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
