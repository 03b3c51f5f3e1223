"""ADD of a URL: downloads a file of the network for a build, never one of this machine or its own network.

A name is resolved here and the connection goes to an address that was checked, so that no answer to a second question
leads elsewhere. Where the machine's proxy is used, that one resolves names, and literal addresses alone are checked.
"""

import asyncio
import hashlib
import ipaddress
import os
import socket
from pathlib import Path, PurePosixPath
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import httpx

from workbench.local_cloud.images.build_sandbox import BuildFailedError
from workbench.local_cloud.images.dockerfile import RefusedError

PRIVATE_VARIABLE = "WORKBENCH_ADD_FROM_PRIVATE_NETWORKS"  # "1" lets ADD read them, for tests
MAX_BYTES = 4 << 30
_DOWNLOAD_S = 10 * 60.0
_TIMEOUT = httpx.Timeout(60, connect=15)
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


def file_name(url: str) -> str:
    """Return the name that a URL's file gets in a directory. Raises RefusedError for a URL that cannot be had."""
    name = PurePosixPath(unquote(_parsed(url).path)).name
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise RefusedError(f"ADD: {url[:200]} has no file's name at its end: ADD another URL.")
    return name


def check_url(url: str) -> None:
    """Raise RefusedError for a URL that can be seen to be none that may be downloaded."""
    parsed = _parsed(url)
    literal = _literal(parsed.host)
    if (literal is not None and not _is_public(literal)) or parsed.host == "localhost":
        _refuse_private(parsed.host)


async def download(url: str, target: Path, *, checksum: str = "", most: int = MAX_BYTES) -> str:
    """Download a URL's file to a path that does not exist, and return the sha256 of its bytes.

    `checksum` is the one that it must have, empty for any; `most` is its limit in bytes. Raises RefusedError for what
    may not be downloaded, and BuildFailedError for what cannot be.
    """
    try:
        async with asyncio.timeout(_DOWNLOAD_S), httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False) as client:
            digest = await _download(client, _parsed(url), target, most)
    except TimeoutError:
        raise BuildFailedError(f"ADD: {url[:200]} was not downloaded within {_DOWNLOAD_S / 60:.0f} minutes.") from None
    except httpx.HTTPError as error:
        raise BuildFailedError(
            f"ADD: {url[:200]} cannot be downloaded: {str(error) or type(error).__name__}."
        ) from None
    if checksum and digest != checksum:
        raise BuildFailedError(f"ADD: {url[:200]} has the sha256 {digest}, not the one that --checksum names.")
    return digest


async def _download(client: httpx.AsyncClient, url: httpx.URL, target: Path, most: int) -> str:
    for _ in range(_MAX_REDIRECTS + 1):
        address, host = await _address(url)
        headers = {"Host": host} if host else {}
        extensions = {"sni_hostname": url.host} if host else {}
        async with client.stream("GET", address, headers=headers, extensions=extensions) as response:
            if response.status_code in _REDIRECTS and "location" in response.headers:
                url = _parsed(str(url.join(response.headers["location"])))
                continue
            if response.status_code != 200:
                raise BuildFailedError(f"ADD: {str(url)[:200]} answers with the status {response.status_code}.")
            return await _written(response, target, most)
    raise BuildFailedError(f"ADD: {str(url)[:200]} is redirected more than {_MAX_REDIRECTS} times.")


async def _written(response: httpx.Response, target: Path, most: int) -> str:
    digest = hashlib.sha256()
    size = 0
    with target.open("xb") as file:
        async for chunk in response.aiter_bytes(1 << 20):
            size += len(chunk)
            if size > most:
                raise BuildFailedError(f"ADD: a file of the network has at most {most} bytes, and this one has more.")
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    return digest.hexdigest()


def _parsed(text: str) -> httpx.URL:
    if text.startswith("git@") or PurePosixPath(text.partition("#")[0]).suffix == ".git":
        raise RefusedError("ADD of a git repository is not implemented by the local cloud: use RUN git clone.")
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        raise RefusedError(f"ADD: {text[:200]!r} is no URL.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise RefusedError(f"ADD takes URLs that begin with http:// or https://, not {text[:200]!r}.")
    if url.userinfo:
        raise RefusedError("ADD takes no URL with a password, which would be in the image's log: use RUN and a secret.")
    return url


async def _address(url: httpx.URL) -> tuple[httpx.URL, str]:
    """Return where to ask for a URL, and the Host to name there, empty if that follows from it.

    Raises RefusedError, BuildFailedError.
    """
    check_url(str(url))
    proxied = url.scheme in getproxies() and not proxy_bypass(url.host)
    if proxied or _literal(url.host) is not None or url.host == "localhost":
        return url, ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except OSError:
        raise BuildFailedError(f"ADD: there is no address for the name {url.host[:200]}.") from None
    addresses = [str(row[4][0]) for row in found]
    for address in addresses:
        literal = _literal(address)
        if literal is None or not _is_public(literal):
            _refuse_private(url.host)
    host = f"{url.host}:{url.port}" if url.port is not None else url.host
    return url.copy_with(host=addresses[0]), host


def _refuse_private(host: str) -> None:
    if os.environ.get(PRIVATE_VARIABLE) != "1":
        raise RefusedError(
            f"ADD: {host[:200]} is an address of this machine or its own network, which builds do not download from: "
            "use COPY."
        )


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (mapped is None or _is_public(mapped))
