"""Whoever reaches a Ray cluster without a token can run any command on it: beyond loopback it is refused."""

from __future__ import annotations

import http.client
import ipaddress
import json
import urllib.request
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from covseg_ray.errors import UsageError

ASK_SECONDS = 10.0


def refuse_open(hosts: Iterable[str], dashboard: str) -> None:
    """Raise UsageError where one of a cluster's ``hosts`` is not loopback and the ``dashboard``, a URL, says that no
    token is wanted, or does not say."""
    beyond = [host for host in hosts if not is_loopback(host)]
    if beyond and authentication(dashboard) != "token":
        raise UsageError(
            f"the cluster at {beyond[0]} wants no token, so whoever reaches it can run anything on it: start its nodes "
            "with RAY_AUTH_MODE=token, or give --allow-open-cluster where its network is closed"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def authentication(dashboard: str) -> str:
    """``token`` or ``disabled``, as the dashboard tells everybody; empty where it does not answer."""
    try:
        answer = json.loads(fetch(f"{dashboard}/api/authentication_mode", ASK_SECONDS))
        return str(answer["authentication_mode"])
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return ""


def fetch(url: str, timeout: float, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The body at ``url``. Raises OSError (urllib.error.HTTPError for a status from 400 on) and HTTPException."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=timeout) as reply:
        return bytes(reply.read())
