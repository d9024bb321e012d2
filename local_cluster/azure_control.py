"""The routes of Azure's stand-in that Azure does not have: settings, faults, evictions, the history of all calls."""

from collections.abc import Callable
from json import JSONDecodeError
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from local_cluster.azure_behaviour import Behaviour
from local_cluster.azure_faults import NoFault, one_line, parse_fault
from local_cluster.azure_front_door import CONTROL, FrontDoor
from local_cluster.azure_pools import Pools


class Control:
    """What a test asks of the stand-in; none of it is in the history."""

    def __init__(self, pools: Pools, behaviour: Behaviour, door: FrontDoor) -> None:
        self._pools, self._behaviour, self._door = pools, behaviour, door

    def routes(self) -> list[web.RouteDef]:
        """Where each request goes."""
        return [
            web.get(f"{CONTROL}/history", self._history),
            web.delete(f"{CONTROL}/history", self._forget),
            web.get(f"{CONTROL}/pools", self._all),
            web.post(f"{CONTROL}/pools/{{name}}/evict", self._evict),
            web.get(f"{CONTROL}/settings", self._settings),
            web.put(f"{CONTROL}/settings", self._set),
            web.put(f"{CONTROL}/boot", self._set_boot),
            web.get(f"{CONTROL}/faults", self._faults),
            web.post(f"{CONTROL}/faults", self._add_fault),
            web.delete(f"{CONTROL}/faults", self._heal),
        ]

    async def _history(self, _: web.Request) -> web.Response:
        return web.json_response(self._door.history)

    async def _forget(self, _: web.Request) -> web.Response:
        self._door.history.clear()
        return web.Response(status=204)

    async def _all(self, _: web.Request) -> web.Response:
        return web.json_response([pool.body for _, pool in sorted(self._pools.by_name.items())])

    async def _evict(self, request: web.Request) -> web.Response:
        pool = self._pools.by_name.get(request.match_info["name"])
        if pool is None or pool.properties["scaleSetPriority"] != "Spot":
            return web.Response(status=404, text=f"there is no spot pool {request.match_info['name']}")
        await self._pools.evict(pool)
        return web.Response(status=204)

    async def _settings(self, _: web.Request) -> web.Response:
        return web.json_response(self._behaviour.model_dump(mode="json"))

    async def _set(self, request: web.Request) -> web.Response:
        return await self._changed(request, lambda told: told)

    async def _set_boot(self, request: web.Request) -> web.Response:
        """Short for the setting that is changed most."""
        return await self._changed(request, lambda told: {"boot_seconds": told["seconds"]})

    async def _changed(self, request: web.Request, meant: Callable[[Any], Any]) -> web.Response:
        try:
            self._behaviour.change(meant(await request.json()))
        except ValidationError as wrong:
            return web.Response(status=400, text=one_line(wrong))
        except (JSONDecodeError, KeyError, TypeError):
            return web.Response(status=400, text='the body must be an object of settings, such as {"boot_seconds": 5}')
        return web.Response(status=204)

    async def _faults(self, _: web.Request) -> web.Response:
        return web.json_response([fault.model_dump(mode="json") for fault in self._door.faults.active])

    async def _add_fault(self, request: web.Request) -> web.Response:
        try:
            self._door.faults.add(parse_fault(await request.json()))
        except JSONDecodeError:
            return web.Response(status=400, text='the body must be a fault, such as {"request": "put", "status": 503}')
        except NoFault as wrong:
            return web.Response(status=400, text=str(wrong))
        return web.Response(status=204)

    async def _heal(self, _: web.Request) -> web.Response:
        self._door.faults.heal()
        return web.Response(status=204)
