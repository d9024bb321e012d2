"""The last seen state of every watched object: fed by watch events, by our own writes, and repaired by the resync LIST.

Nothing in it is believed where money is concerned: see ``carry_out``.
"""

from collections import defaultdict
from collections.abc import Iterable

from kaito_operator.api.kinds import Kind
from kaito_operator.api.labels import WORKSPACE, WORKSPACE_NAMESPACE
from kaito_operator.plan import Key, Manifest, Ref, Refusal

_Name = tuple[str, str]
_Resource = tuple[str, str]
REMEMBERED = 10_000
"""Removals that are remembered, so that a late event of a gone object does not bring it back."""


class Mirror:
    """Objects by kind, namespace and name; and those of one Workspace by its labels."""

    def __init__(self) -> None:
        self._objects: dict[_Resource, dict[_Name, Manifest]] = defaultdict(dict)
        self._of_workspace: dict[tuple[_Resource, Key], set[_Name]] = defaultdict(set)
        self._of_nobody: dict[_Resource, set[_Name]] = defaultdict(set)
        self._removed: dict[str, int] = {}
        self._read: dict[Key, tuple[Manifest, ...]] = {}
        self._refusals: dict[Ref, Refusal] = {}
        self._absent: set[Kind] = set()

    def put(self, seen: Manifest) -> bool:
        """Takes in what was seen. False if it is no news: an old event never overwrites the answer to our own write.

        resourceVersions of one resource type compare as integers (Kubernetes 1.35, KEP-5504; in fact since etcd 3).
        """
        resource, name = _resource(seen), _name(seen)
        known = self._objects[resource].get(name)
        if known is not None and _version(known) >= _version(seen):
            return False
        if _version(seen) <= self._removed.get(seen["metadata"]["uid"], 0):
            return False
        self._unindex(resource, name)
        self._objects[resource][name] = seen
        if key := _workspace_key(seen):
            self._of_workspace[resource, key].add(name)
        else:
            self._of_nobody[resource].add(name)
        return True

    def remove(self, gone: Manifest) -> bool:
        """Takes out an object that is gone, unless a younger one of the name is known."""
        resource, name = _resource(gone), _name(gone)
        known = self._objects[resource].get(name)
        if known is None or (known["metadata"]["uid"] != gone["metadata"]["uid"] and _version(known) > _version(gone)):
            return False
        self._unindex(resource, name)
        del self._objects[resource][name]
        self._remember(gone["metadata"]["uid"], max(_version(known), _version(gone) - 1))
        return True

    def keep(self, key: Key, read: tuple[Manifest, ...]) -> None:
        """Takes in what was read live for one parent: objects that nobody watches, so no event can be about them."""
        if read:
            self._read[key] = read
        else:
            self._read.pop(key, None)

    def read_for(self, key: Key) -> tuple[Manifest, ...]:
        """What was read live for a parent before its last pass."""
        return self._read.get(key, ())

    def refuse(self, refusal: Refusal) -> None:
        """Takes in that the API server will not have an object as we wrote it."""
        self._refusals[Ref.of(refusal.manifest)] = refusal

    def refusal(self, kind: Kind, name: str, namespace: str = "") -> Refusal | None:
        """What was refused of this name since the last resync."""
        return self._refusals.get(Ref(kind.api_version, kind.kind, name, namespace))

    def forget_refusals(self) -> None:
        """An admission policy may have changed: everything may be tried again."""
        self._refusals.clear()

    def lack(self, kind: Kind) -> None:
        """Takes in that the cluster does not know a kind. When it does one day, we start again (``KindAppeared``)."""
        self._absent.add(kind)

    def lacks(self, kind: Kind) -> bool:
        """Whether the cluster does not know a kind that we watch."""
        return kind in self._absent

    def replace(self, kind: Kind, objects: Iterable[Manifest], *, resource_version: str) -> list[Manifest]:
        """Makes the kind what a LIST saw, but for what is newer than the LIST. Answers everything that differed."""
        listed = {_name(o): o for o in objects}
        known = self._objects[kind.api_version, kind.kind]
        ghosts = [o for n, o in known.items() if n not in listed and _version(o) <= int(resource_version)]
        for ghost in ghosts:
            self.remove(ghost)
        return ghosts + [o for o in listed.values() if self.put(o)]

    def get(self, kind: Kind, name: str, namespace: str = "") -> Manifest | None:
        """One object as last seen."""
        return self._objects[kind.api_version, kind.kind].get((namespace, name))

    def last(self, manifest: Manifest) -> Manifest | None:
        """The object of the same kind and name as it was last seen."""
        return self._objects[_resource(manifest)].get(_name(manifest))

    def all(self, kind: Kind) -> list[Manifest]:
        """All objects of a kind, sorted by namespace and name."""
        known = self._objects[kind.api_version, kind.kind]
        return [known[name] for name in sorted(known)]

    def of_workspace(self, kind: Kind, key: Key) -> list[Manifest]:
        """The objects of a kind that bear a Workspace's labels, sorted by namespace and name."""
        resource = (kind.api_version, kind.kind)
        return [self._objects[resource][name] for name in sorted(self._of_workspace.get((resource, key), ()))]

    def of_nobody(self, kind: Kind) -> list[Manifest]:
        """The objects of a kind that bear no Workspace's labels, sorted by namespace and name."""
        resource = (kind.api_version, kind.kind)
        return [self._objects[resource][name] for name in sorted(self._of_nobody.get(resource, ()))]

    def __len__(self) -> int:
        return sum(len(objects) for objects in self._objects.values())

    def _remember(self, uid: str, version: int) -> None:
        """Up to which version an object is past. One that merely lost its label lives on with the version of that."""
        self._removed[uid] = version
        if len(self._removed) > REMEMBERED:
            del self._removed[next(iter(self._removed))]

    def _unindex(self, resource: _Resource, name: _Name) -> None:
        self._of_nobody[resource].discard(name)
        known = self._objects[resource].get(name)
        if known is not None and (key := _workspace_key(known)):
            names = self._of_workspace[resource, key]
            names.discard(name)
            if not names:
                del self._of_workspace[resource, key]


def _resource(manifest: Manifest) -> _Resource:
    return manifest["apiVersion"], manifest["kind"]


def _name(manifest: Manifest) -> _Name:
    return manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]


def _version(manifest: Manifest) -> int:
    return int(manifest["metadata"]["resourceVersion"])


def _workspace_key(manifest: Manifest) -> Key | None:
    meta = manifest["metadata"]
    labels = meta.get("labels") or {}
    name, namespace = labels.get(WORKSPACE), meta.get("namespace") or labels.get(WORKSPACE_NAMESPACE)
    return Key(namespace, name) if name and namespace else None
