"""A real etcd and kube-apiserver on loopback, for tests that need an API server and nobody who acts on its objects."""

import json
import secrets
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kaito_operator.api.conditions import moment
from local_cluster import binaries, credentials
from local_cluster.control_plane import AUDIT_POLICY, ControlPlane
from tests.support.ports import free_ports
from tests.support.waiting import eventually

Json = dict[str, Any]
USERS = {
    "admin": "system:masters",
    "operator": "system:masters",
    "karpenter": "system:masters",
    "stranger": "",
}
"""User → group. Tests act as admin and the code under test as operator, so that the audit log tells them apart."""

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
ADVERTISED = "10.244.255.1"
"""An API server refuses to advertise a loopback address; nobody here reads what it advertises."""
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""A test run that is killed leaves no API server behind."""


class Refused(AssertionError):
    """The API server said no to the test itself."""


@dataclass(frozen=True)
class ApiServer:
    """A running API server. Its own requests go by urllib: another way than the code under test takes."""

    plane: ControlPlane
    tokens: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where it listens; its certificate names that address too."""
        return f"https://{self.plane.listen}:{self.plane.api_port}"

    def kubeconfig(self, user: str = "operator") -> Path:
        """The file by which ``user`` speaks to it."""
        path = self.plane.kubeconfig(user)
        if not path.exists():
            content = credentials.kubeconfig(
                server=self.url,
                token=self.tokens[user],
                authority=self.plane.authority.read_bytes(),
                cluster="test",
            )
            credentials.write_secret(path, content)
        return path

    def ask(self, method: str, path: str, body: object = None, *, content: str = "application/json") -> Json:
        """A request as admin. Raises Refused with the server's words."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.tokens['admin']}", "Content-Type": content},
        )
        trusted = ssl.create_default_context(cafile=str(self.plane.authority))
        try:
            with urllib.request.urlopen(request, timeout=20, context=trusted) as answer:
                found: Json = json.load(answer)
                return found
        except urllib.error.HTTPError as refused:
            with refused:
                raise Refused(f"{method} {path}: {refused.code} {refused.read().decode()}") from None

    def get(self, path: str) -> Json | None:
        """An object by its path; None if there is none."""
        try:
            return self.ask("GET", path)
        except Refused as refused:
            if " 404 " in str(refused):
                return None
            raise

    def merge(self, path: str, patch: object) -> Json:
        """A merge patch."""
        return self.ask("PATCH", path, patch, content=MERGE)

    def apply(self, path: str, manifest: object) -> Json:
        """Server-side apply as somebody else than the operator."""
        return self.ask("PATCH", f"{path}?fieldManager=test&force=true", manifest, content=APPLY)

    def allows(self, user: str, verb: str, resource: str, *, group: str = "", namespace: str = "") -> bool:
        """Whether a user may do that: roles count a moment after they are written."""
        attributes = {"verb": verb, "group": group, "resource": resource, "namespace": namespace}
        review = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        groups = ["system:authenticated", *filter(None, (USERS[user],))]
        spec = {"user": user, "groups": groups, "resourceAttributes": attributes}
        return bool(self.ask("POST", review, {"spec": spec})["status"]["allowed"])

    def now(self) -> "Moment":
        """This place in the audit log."""
        log = self.plane.audit_log
        return Moment(log, log.stat().st_size if log.exists() else 0)


@dataclass(frozen=True)
class Moment:
    """A place in the audit log, from which requests are counted."""

    log: Path
    offset: int

    def requests(self, *, user: str = "operator") -> list[str]:
        """What the user has asked for since, as ``verb resource`` (or the path of what is no resource), in order."""
        return [told for entry in self._entries() if (told := _told(entry, user)) is not None]

    def writes(self, *, user: str = "operator") -> list[str]:
        """The requests that change something, without those for the Lease."""
        return [told for told in self.requests(user=user) if told.split()[0] not in READS and "leases" not in told]

    def created(self, *, user: str = "operator") -> list[str]:
        """What the user has brought into being since, as ``resource namespace/name``; events aside."""
        made = []
        for entry in self._entries():
            about, code = entry.get("objectRef", {}), entry.get("responseStatus", {}).get("code")
            ours = entry["user"]["username"] == user and entry["stage"] == "ResponseComplete"
            if ours and code == 201 and about.get("resource") not in (None, "events"):
                made.append(f"{about['resource']} {about.get('namespace', '')}/{about.get('name', '')}")
        return made

    def first_answers(self, plural: str, *, user: str = "operator") -> dict[str, float]:
        """Seconds from the creation of each object of the kind by somebody else to the user's first write to it."""
        made: dict[str, datetime] = {}
        answered: dict[str, float] = {}
        for entry in self._entries():
            about, name = entry.get("objectRef", {}), entry.get("objectRef", {}).get("name", "")
            if about.get("resource") != plural or entry["stage"] != "ResponseComplete":
                continue
            if entry["verb"] == "create" and entry["user"]["username"] != user:
                made[name] = moment(entry["stageTimestamp"])
            elif entry["verb"] == "patch" and entry["user"]["username"] == user and name in made:
                waited = (moment(entry["requestReceivedTimestamp"]) - made[name]).total_seconds()
                answered.setdefault(name, max(0.0, waited))
        return answered

    def _entries(self) -> Iterator[Json]:
        with self.log.open("rb") as lines:
            lines.seek(self.offset)
            for line in lines:
                if line.endswith(b"\n"):
                    yield json.loads(line)


READS = ("get", "list", "watch")


def _told(entry: Json, user: str) -> str | None:
    """A watch is told when it begins, everything else when it is done."""
    stage = "ResponseStarted" if entry["verb"] == "watch" else "ResponseComplete"
    if entry["user"]["username"] != user or entry["stage"] != stage:
        return None
    about = entry.get("objectRef")
    if about is None or "resource" not in about:
        return f"{entry['verb']} {entry['requestURI'].partition('?')[0]}"
    return f"{entry['verb']} {'/'.join(filter(None, (about['resource'], about.get('subresource'))))}"


@contextmanager
def api_server(directory: Path) -> Iterator[ApiServer]:
    """Starts both programs in ``directory`` and ends them."""
    etcd, peer, api = free_ports(3)
    programs = binaries.find(*binaries.CONTROL_PLANE)
    plane = ControlPlane(programs, directory, address=ADVERTISED, etcd_port=etcd, etcd_peer_port=peer, api_port=api)
    server = ApiServer(plane, {user: secrets.token_urlsafe(16) for user in USERS})
    lines = (f'{token},{user},{user},"{USERS[user]}"\n' for user, token in server.tokens.items())
    credentials.write_secret(plane.tokens, "".join(lines))
    credentials.write_secret(plane.signing_key, credentials.new_signing_key())
    credentials.write_secret(plane.audit_policy, AUDIT_POLICY)
    plane.audit_log.parent.mkdir()
    with ExitStack() as running:
        for name, command in (("etcd", plane.etcd()), ("kube-apiserver", plane.kube_apiserver())):
            running.enter_context(_program([*DIE_WITH_US, *command], log=directory / f"{name}.log"))
        eventually(lambda: _ready(server), within=60, what=f"the API server is ready; see {directory}")
        yield server


@contextmanager
def _program(command: list[str], *, log: Path) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as running:
        try:
            yield
        finally:
            running.kill()


def _ready(server: ApiServer) -> bool:
    """Ready, and furnished with the namespace that the tests use and with the rights that everybody has."""
    if not server.plane.authority.exists():
        return False
    try:
        everybodys = server.allows("stranger", "create", "selfsubjectaccessreviews", group="authorization.k8s.io")
        return everybodys and server.get("/api/v1/namespaces/default") is not None
    except (Refused, OSError):
        return False  # it writes its certificate, then listens, then answers, and only then makes its own roles


def establish(server: ApiServer, definition: Json) -> None:
    """Applies a CRD and waits until its objects can be written and everybody is told of it."""
    if _without_a_no(lambda: _established(server, definition)):
        return
    server.apply(_path(definition), definition)

    def whole() -> bool:
        return _established(server, definition) and _told_of(server, definition) == {True}

    eventually(lambda: _without_a_no(whole), within=60, what=f"{_path(definition)} is established")


def withdraw(server: ApiServer, definition: Json) -> None:
    """Deletes a CRD with its objects, and waits until nobody is told of it: what comes next is as if it never was."""
    empty(server, definition)
    server.ask("DELETE", _path(definition))

    def gone() -> bool:
        return server.get(_path(definition)) is None and _told_of(server, definition) == {False}

    eventually(lambda: _without_a_no(gone), within=60, what=f"{_path(definition)} is gone")


def _without_a_no(look: Callable[[], bool]) -> bool:
    """Whether it is so; not while the server refuses to say, as it does (503) when its kinds have just changed."""
    try:
        return look()
    except Refused:
        return False


def _path(definition: Json) -> str:
    return f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition['metadata']['name']}"


def _established(server: ApiServer, definition: Json) -> bool:
    conditions = (server.get(_path(definition)) or {}).get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions) and all(
        _served(server, definition["spec"], version["name"]) for version in definition["spec"]["versions"]
    )


def _served(server: ApiServer, spec: Json, version: str) -> bool:
    """Established is said a moment before the storage is there (429 until then)."""
    try:
        return server.get(f"/apis/{spec['group']}/{version}/{spec['names']['plural']}") is not None
    except Refused:
        return False


def _told_of(server: ApiServer, definition: Json) -> set[bool]:
    """Whether it is there, in each of the places that tell: they follow one after another."""
    spec = definition["spec"]
    groups = server.ask("GET", "/apis")["groups"]
    versions = {v["groupVersion"] for group in groups for v in group["versions"]}
    told = set[bool]()
    for version in (version["name"] for version in spec["versions"]):
        of_version = f"{spec['group']}/{version}"
        resources = (server.get(f"/apis/{of_version}") or {"resources": []})["resources"]
        told |= {of_version in versions, any(each["name"] == spec["names"]["plural"] for each in resources)}
        told.add(_served(server, spec, version))
    return told


def empty(server: ApiServer, definition: Json) -> None:
    """Deletes every object of a CRD, whatever finalizers it has: nothing of one test may meet the next."""
    spec = definition["spec"]
    everything = f"/apis/{spec['group']}/{spec['versions'][0]['name']}/{spec['names']['plural']}"
    for item in (server.get(everything) or {"items": []})["items"]:
        meta = item["metadata"]
        where = f"namespaces/{meta['namespace']}/" if "namespace" in meta else ""
        _remove(server, f"{everything.rpartition('/')[0]}/{where}{spec['names']['plural']}/{meta['name']}")


def _remove(server: ApiServer, path: str) -> None:
    """Whoever was killed may have asked for its last write a moment before, so it may go by itself meanwhile."""
    try:
        server.ask("DELETE", path)
        if server.get(path) is not None:
            server.merge(path, {"metadata": {"finalizers": []}})
    except Refused as gone:
        if " 404 " not in str(gone):
            raise
