"""A hop does its harm exactly where no header forbids it, and nothing else to what passes."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from workbench.failures.hops import Harm, Hop

EVENTS = b"".join(f"data: {number}\n\n".encode() for number in range(5))
_SOON_S = 1.0  # what is not held back arrives within it
_LATE_S = 30.0
FORBIDDING = {"X-Accel-Buffering": "no", "Cache-Control": "no-cache, no-transform"}


class _Endpoint(BaseHTTPRequestHandler):
    """Streams five events, the last when it is told to; the path says which headers forbid."""

    protocol_version = "HTTP/1.1"
    go_on = threading.Event()
    bodies: list[bytes] = []  # noqa: RUF012  # the class is the server's state

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        self.send_response(401 if self.headers.get("x-secret") != "right" else 200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Connection", "close")
        for name, value in FORBIDDING.items() if self.path.endswith("forbids") else ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(EVENTS[:-9])
        self.wfile.flush()
        self.go_on.wait(_LATE_S)
        self.wfile.write(EVENTS[-9:])

    do_GET = do_POST  # noqa: N815  # the library's name

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        _Endpoint.go_on.clear()
        _Endpoint.bodies.clear()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        _Endpoint.go_on.set()
        server.shutdown()
        thread.join()


def is_early(hop: Hop, path: str, *, expected: bool = True) -> bool:
    """Whether anything arrives before the endpoint has come to its end; all of it must arrive then."""
    seen = threading.Event()
    got = bytearray()

    def read() -> None:
        with httpx.stream("POST", hop.url + path, headers={"x-secret": "right"}, content=b"asked") as response:
            for piece in response.iter_bytes():
                got.extend(piece)
                seen.set()

    _Endpoint.go_on.clear()
    thread = threading.Thread(target=read)
    thread.start()
    before_the_end = seen.wait(_LATE_S if expected else _SOON_S)
    _Endpoint.go_on.set()
    thread.join(_LATE_S)
    assert bytes(got) == EVENTS
    return before_the_end


@pytest.mark.parametrize(
    ("harm", "plain", "forbidden"),
    [
        ("buffers", False, True),
        ("buffers whatever is said", False, False),
        ("compresses", False, True),
        (None, True, True),
    ],
)
def test_it_holds_a_stream_back_unless_a_header_forbids_it(
    endpoint: str, harm: Harm | None, plain: bool, forbidden: bool
) -> None:
    with Hop(endpoint, harm) as hop:
        assert is_early(hop, "/generate", expected=plain) is plain
        assert is_early(hop, "/generate/forbids", expected=forbidden) is forbidden
        assert hop.met == 2
        assert hop.harmed == 2 - plain - forbidden
    assert _Endpoint.bodies == [b"asked", b"asked"]


def test_it_stores_what_may_be_stored_and_refusals_never(endpoint: str) -> None:
    _Endpoint.go_on.set()
    with Hop(endpoint, "stores") as hop:
        for path, asked in (("/generate", 1), ("/generate/forbids", 2)):
            _Endpoint.bodies.clear()
            for _ in range(2):
                answer = httpx.get(hop.url + path, headers={"x-secret": "right"})
                assert (answer.status_code, answer.content) == (200, EVENTS)
            assert len(_Endpoint.bodies) == asked
    with Hop(endpoint, "stores") as hop:
        assert httpx.get(hop.url + "/generate").status_code == 401
        assert httpx.get(hop.url + "/generate", headers={"x-secret": "right"}).status_code == 200


def test_it_cuts_the_first_stream_and_then_never_again(endpoint: str) -> None:
    with Hop(endpoint, cut_after_s=0.2) as hop:
        with (
            pytest.raises(httpx.HTTPError),
            httpx.stream("POST", f"{hop.url}/generate", headers={"x-secret": "right"}) as response,
        ):
            list(response.iter_bytes())
        assert is_early(hop, "/generate")
        assert hop.harmed == 1


def test_it_answers_what_the_endpoint_answers_and_is_gone_when_it_is_closed(endpoint: str) -> None:
    _Endpoint.go_on.set()
    with Hop(endpoint) as hop:
        assert httpx.get(f"{hop.url}/other?a=b").status_code == 401
        assert hop.met == 0  # a refusal is no stream
    with pytest.raises(httpx.ConnectError):
        httpx.get(hop.url)
