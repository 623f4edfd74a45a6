"""One product on files, shared by the tests of the edge, and as many edges in front of it as they want."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.servers.base import skip_without
from tests.servers.edge import Edge
from tests.servers.product import Product
from tests.servers.stacks import embedded_stack

NewEdge = Callable[..., Edge]


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """The product behind the edges."""
    running = Product(embedded_stack(tmp_path_factory.mktemp("origin-data")), tmp_path_factory.mktemp("origin"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def new_edge(origin: Product, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NewEdge]:
    """A function that starts an edge with some settings, in front of the product or of another server."""
    with ExitStack() as closing:

        def start(server: str = "", **settings: str) -> Edge:
            bind = server or origin.url.removeprefix("http://")
            edge = Edge(tmp_path_factory.mktemp("edge"), bind, settings)
            closing.callback(edge.stop)
            return edge

        yield start


@pytest.fixture(scope="session")
def edge(new_edge: NewEdge) -> Edge:
    """An edge without limits in practice, for all tests that ask for no limit."""
    return new_edge(EDGE__UNLIMITED_NETWORKS="127.0.0.0/8")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A certificate for localhost, and the settings that name it."""
    if shutil.which("openssl") is None:
        skip_without("openssl is not installed: apt-get install openssl")
    folder = tmp_path_factory.mktemp("certificate")
    files = [folder / "tls.key", folder / "tls.pem"]
    options = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    command = ["openssl", "req", *options.split(), "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, "-keyout", files[0], "-out", files[1]], check=True, capture_output=True)
    return {"EDGE__TLS_KEY_FILE": str(files[0]), "EDGE__TLS_CERTIFICATE_FILE": str(files[1])}
