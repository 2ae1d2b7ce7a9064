"""Whoever reaches a Ray cluster that wants no token runs any command on it: such a one is refused beyond loopback."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

import requests

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
    """``token`` or ``disabled``, as the dashboard tells everybody; empty where none answers."""
    try:
        answer = requests.get(f"{dashboard}/api/authentication_mode", timeout=ASK_SECONDS)
        return str(answer.json()["authentication_mode"])
    except (requests.exceptions.RequestException, KeyError, TypeError):
        return ""
