"""An edit and its undoing on a real API server, as the guide describes it."""

import pytest

from tests.kaito_operator.workspace.test_workspace_on_api_server import Json, Scene, scene

__all__ = ["scene"]  # the fixture
pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("crds")]


def images(scene: Scene) -> list[str]:
    """The arguments that name the adapters' images, in what runs."""
    spec = (scene.server.get(scene.path("deployments")) or {})["spec"]["template"]["spec"]
    return [argument for each in spec.get("initContainers", ()) for argument in each["args"] if "--image=" in argument]


def revisions(scene: Scene) -> list[Json]:
    path = f"/apis/apps/v1/namespaces/{scene.namespace}/controllerrevisions?labelSelector=kaito.sh%2Fworkspace%3Dchat"
    found: list[Json] = scene.server.ask("GET", path)["items"]
    return sorted(found, key=lambda each: each["revision"])


def adapter(name: str) -> Json:
    return {"source": {"name": name, "image": f"r.io/team/{name}:1"}}


async def test_the_data_of_a_revision_is_a_patch_that_undoes_an_edit(scene: Scene) -> None:
    scene.node(f"{scene.namespace}-a")
    scene.create(size="")
    await scene.rest()
    assert (images(scene), revisions(scene)) == ([], [])
    scene.server.merge(scene.path(), {"inference": {"adapters": [adapter("style")]}})
    await scene.rest()
    assert images(scene) == ["--image=r.io/team/style:1"]
    before, now = revisions(scene)
    assert [each["revision"] for each in (before, now)] == [1, 2]
    scene.server.merge(scene.path(), before["data"])
    await scene.rest()
    assert images(scene) == []
    assert [(each["metadata"]["name"], each["revision"]) for each in revisions(scene)] == [
        (now["metadata"]["name"], 2),
        (before["metadata"]["name"], 3),
    ]
    assert await scene.rest() == 0
