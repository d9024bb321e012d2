"""One conversation with a registry: requests that authenticate themselves, wait where asked, and fail clearly."""

import logging
from collections.abc import Mapping
from typing import Any

import httpx

from presets.tuning_steps import ExitCode
from tuning_runner import address_guard
from tuning_runner.address_guard import AddressRefused, Guard
from tuning_runner.image_reference import ImageReference
from tuning_runner.patience import Interrupted, Patience, check_patience, trouble
from tuning_runner.registry_auth import Challenge, Credentials, parse_challenges
from tuning_runner.transfer_ending import StepFailed

CLIENT_ID = "kaito"
log = logging.getLogger(__name__)


class RegistrySession:
    """Speaks to the registry of one image as one user; ``failed`` and ``denied`` are the exit codes of its troubles."""

    def __init__(
        self,
        image: ImageReference,
        *,
        guard: Guard,
        credentials: Credentials | None,
        failed: ExitCode,
        denied: ExitCode,
        patience: Patience | None = None,
    ) -> None:
        self.image = image
        self.failed, self.denied = failed, denied
        self.patience = patience or Patience()
        self._credentials = credentials
        self._client = address_guard.client(guard, timeout=60)
        scheme = "http" if image.host in guard.plain_http else "https"
        self.base = httpx.URL(f"{scheme}://{image.host}/v2/{image.repository}/")
        self._authorization = ""
        self._push = denied is ExitCode.PUSH_DENIED

    def close(self) -> None:
        """Ends the conversation."""
        self._client.close()

    def ask(
        self, method: str, url: httpx.URL | str, *, headers: Mapping[str, str] | None = None, content: bytes = b""
    ) -> httpx.Response:
        """One request, as often as it takes to get an answer; 401, 403 and 404 are the caller's to judge by ``refuse``.

        Raises StepFailed when the registry cannot be reached, or says no to who we are.
        """
        attempt = 0
        while True:
            try:
                return self.once(method, url, headers=headers, content=content)
            except (httpx.TransportError, Interrupted) as error:
                attempt = self.pause(attempt, error)

    def once(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes = b"",
        stream: bool = False,
    ) -> httpx.Response:
        """One attempt, and a second one with a token if the registry asks for one.

        Raises httpx.TransportError or Interrupted for what another attempt may better, and StepFailed.
        """
        answer = self._send(method, url, headers=headers, content=content, stream=stream)
        if answer.status_code == 401 and self._at_registry(answer.request.url):
            challenges = parse_challenges(",".join(answer.headers.get_list("www-authenticate")))
            answer.close()
            self._authorization = self._authorize(challenges)
            answer = self._send(method, url, headers=headers, content=content, stream=stream)
        if answer.status_code >= 400 and stream:
            answer.read()
        check_patience(answer)
        return answer

    def pause(self, attempt: int, error: httpx.TransportError | Interrupted) -> int:
        """Waits for the next attempt. Raises StepFailed if that was the last."""
        if not self.patience.wait(attempt, after=getattr(error, "after", 0)):
            said = (
                f"{self.image.registry}: {trouble(error)}, {attempt + 1} times: is the registry up, and its name right?"
            )
            raise StepFailed(self.failed, said) from None
        return attempt + 1

    def refuse(self, answer: httpx.Response, *, doing: str) -> StepFailed:
        """The failure that an answer of 400 and above stands for, in the words of the registry."""
        status, said = answer.status_code, _errors(answer)
        name = f"{self.image.registry}/{self.image.repository}"
        told = f"{doing} {name}: the registry answers {status}{said}"
        if status in (401, 403):
            right = "push to" if self._push else "read"
            return StepFailed(self.denied, f"{told}: give a secret whose user may {right} this repository")
        if status == 404:
            return StepFailed(self.denied, f"{told}: correct the name, or create it")
        return StepFailed(self.failed, told)

    def _send(
        self, method: str, url: httpx.URL | str, *, headers: Mapping[str, str] | None, content: bytes, stream: bool
    ) -> httpx.Response:
        target = self.base.join(url)
        own = {"authorization": self._authorization} if self._authorization and self._at_registry(target) else {}
        request = self._client.build_request(
            method, target, headers={**(headers or {}), **own}, content=content or None
        )
        try:
            # httpx takes Authorization out where a redirect leads to another host.
            return self._client.send(request, stream=stream, follow_redirects=method in ("GET", "HEAD"))
        except AddressRefused as error:
            raise StepFailed(self.denied, str(error)) from None
        except httpx.TooManyRedirects:
            raise StepFailed(self.failed, f"{self.image.registry} redirects without end: ask its operator") from None

    def _at_registry(self, url: httpx.URL) -> bool:
        return (url.scheme, url.netloc) == (self.base.scheme, self.base.netloc)

    def _authorize(self, challenges: list[Challenge]) -> str:
        """The Authorization header that one of the challenges asks for; "" where we have nothing to say."""
        for challenge in challenges:
            if challenge.scheme == "bearer" and (realm := challenge.parameters.get("realm")):
                return "Bearer " + self._token(self.base.join(realm), challenge.parameters)
        if self._credentials and any(challenge.scheme == "basic" for challenge in challenges):
            return self._credentials.basic
        return ""

    def _token(self, realm: httpx.URL, asked: Mapping[str, str]) -> str:
        """A token for what the challenge asks (distribution's token and oauth2 specifications)."""
        mine = self._credentials or Credentials()
        if mine.registry_token:
            return mine.registry_token
        actions = "pull,push" if self._push else "pull"
        scope = asked.get("scope") or f"repository:{self.image.repository}:{actions}"
        query = {"service": asked.get("service", ""), "scope": scope}
        if mine.identity_token:
            form = {
                **query,
                "grant_type": "refresh_token",
                "client_id": CLIENT_ID,
                "refresh_token": mine.identity_token,
            }
            request = self._client.build_request("POST", realm, data=form)
        else:
            headers = {"authorization": mine.basic} if mine.user else {}
            request = self._client.build_request("GET", realm.copy_merge_params(query), headers=headers)
        try:
            answer = self._client.send(request)
        except AddressRefused as error:
            raise StepFailed(self.denied, f"the token server of {self.image.registry}: {error}") from None
        check_patience(answer)
        if answer.status_code != 200:
            raise self.refuse(answer, doing="logging in to")
        found = _json(answer)
        token = found.get("access_token") or found.get("token")
        if not isinstance(token, str) or not token:
            raise StepFailed(self.failed, f"the token server of {self.image.registry} gave no token: ask its operator")
        return token


def _json(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _errors(answer: httpx.Response) -> str:
    """What the registry says went wrong, cut; only the codes, since messages may repeat what we sent."""
    listed = _json(answer).get("errors") if answer.is_closed else None
    codes = [str(e.get("code", ""))[:40] for e in listed[:3] if isinstance(e, dict)] if isinstance(listed, list) else []
    return f" ({', '.join(codes)})" if any(codes) else ""
