"""Volumes that outlive pods: a StorageClass ``local`` and a few PersistentVolumes in the cluster's directory."""

from pathlib import Path
from typing import Any

CLASS = "local"
VOLUMES = 4
SIZE = "100Gi"
"""What a volume says it has; nobody measures it."""


def make_directories(directory: Path) -> None:
    """A directory per volume that pods of any user may write to, as the fsGroup of a real volume lets them."""
    for path in paths(directory):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)  # hostPath knows no fsGroup, and the directory above is its owner's alone


def paths(directory: Path) -> list[Path]:
    """Where the volumes are."""
    return [directory / f"volume-{number}" for number in range(1, VOLUMES + 1)]


def objects(directory: Path) -> list[dict[str, Any]]:
    """The StorageClass and its volumes; a claim of the class takes the next free one."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }
    return [storage_class, *(_volume(path) for path in paths(directory))]


def _volume(path: Path) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{CLASS}-{path.name}"},
        "spec": {
            "capacity": {"storage": SIZE},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "hostPath": {"path": str(path), "type": "Directory"},
        },
    }
