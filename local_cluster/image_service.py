"""ImageService of CRI: the table of images. Nothing is pulled; what is not in the table is not found, or not given."""

import time
from typing import Any

from local_cluster import pull
from local_cluster.cri import api_pb2 as cri
from local_cluster.images import Images, image_id


class ImageService:
    """Answers what the kubelet asks about images. ``registry``: the host of the cluster's own, which is asked first."""

    def __init__(self, images: Images, *, registry: str = "") -> None:
        self._images = images
        self._registry = registry

    async def list_images(self, request: Any) -> Any:
        """All of them, or the one asked for."""
        wanted = request.filter.image.image
        names = [self._images.name_of(wanted)] if wanted else self._images.names
        return cri.ListImagesResponse(images=[self._image(name) for name in names if name])

    async def image_status(self, request: Any) -> Any:
        """One image; an answer without an image says that it is not there."""
        name = self._images.name_of(request.image.image)
        return cri.ImageStatusResponse(image=self._image(name) if name else None)

    async def pull_image(self, request: Any) -> Any:
        """The id of an image that is there. Raises CriError."""
        reference, login = request.image.image, request.auth
        name = self._images.name_of(reference)
        if name is None:
            await pull.refuse(reference, host=self._registry, user=login.username, password=login.password)
        return cri.PullImageResponse(image_ref=image_id(name))

    async def remove_image(self, _request: Any) -> Any:
        """Does nothing: the table stays as it is."""
        return cri.RemoveImageResponse()

    async def image_fs_info(self, _request: Any) -> Any:
        """Images take no room."""
        usage = cri.FilesystemUsage(
            timestamp=time.time_ns(),
            fs_id=cri.FilesystemIdentifier(mountpoint="/"),
            used_bytes=cri.UInt64Value(value=0),
            inodes_used=cri.UInt64Value(value=0),
        )
        return cri.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])

    def _image(self, name: str) -> Any:
        image = self._images[name]
        return cri.Image(
            id=image_id(name),
            repo_tags=[name],
            size=1,  # 0 would be an image without content, which some clients do not show
            uid=cri.Int64Value(value=image.user),
            spec=cri.ImageSpec(image=name),
            pinned=True,
        )
