import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from fbunet_jax.config import DataConfig
from fbunet_jax.data import download
from fbunet_jax.data.datasets import load_dataset
from fbunet_jax.errors import DataError

FILES = {"README.md": b"read me", "stack1/raw/00.tif": bytes(range(256)) * 300, "stack1/raw/01.tif": b"second"}


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; notes the requests, and spoils those that the test names."""

    def do_GET(self):
        path = self.path.lstrip("/")
        self.server.requests.append(path)
        fault = self.server.faults.get(path)
        if fault and fault[0] > 0:
            self.server.faults[path] = (fault[0] - 1, fault[1])
            data = (Path(self.directory) / path).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2] if fault[1] == "truncated" else data[::-1])
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """Return a function that serves a folder on this machine and returns the server; its address is ``url``."""
    running = []

    def start(folder):
        def handler(*args):
            return Handler(*args, directory=str(folder))

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.requests, server.faults = [], {}
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return server

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def published(tmp_path, monkeypatch, serve):
    """Return the server of a small set in place of the published one; retries do not wait."""
    for name, content in FILES.items():
        (tmp_path / "server" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "server" / name).write_bytes(content)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    monkeypatch.setattr(download, "registry", lambda name: digests)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return serve(tmp_path / "server")


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_every_file_is_fetched_once_and_found_again(published, tmp_path):
    assert download.fetch("drosophila-vnc", tmp_path / "here", published.url) == 3
    assert contents(tmp_path / "here") == FILES
    assert sorted(published.requests) == sorted(FILES)

    assert download.fetch("drosophila-vnc", tmp_path / "here", published.url + "/") == 0
    assert len(published.requests) == 3


@pytest.mark.parametrize("kind", ["truncated", "wrong"])
def test_a_broken_transfer_is_repeated(kind, published, tmp_path):
    published.faults["stack1/raw/00.tif"] = (2, kind)

    assert download.fetch("drosophila-vnc", tmp_path / "here", published.url) == 3

    assert contents(tmp_path / "here") == FILES
    assert published.requests.count("stack1/raw/00.tif") == 3


@pytest.mark.parametrize(
    ("kind", "words"), [("truncated", "the transfer broke off"), ("wrong", "SHA-256 differs in 4 downloads")]
)
def test_what_stays_broken_is_an_error_leaves_no_part_and_can_be_continued(kind, words, published, tmp_path):
    published.faults["stack1/raw/00.tif"] = (99, kind)
    with pytest.raises(DataError, match=f"{words}.*1 of 3 files are there; the same command downloads the others"):
        download.fetch("drosophila-vnc", tmp_path / "here", published.url)
    assert contents(tmp_path / "here") == {"README.md": FILES["README.md"]}

    published.faults.clear()
    assert download.fetch("drosophila-vnc", tmp_path / "here", published.url) == 2
    assert contents(tmp_path / "here") == FILES
    assert published.requests.count("README.md") == 1


def test_a_file_that_was_cut_short_or_changed_is_fetched_again(published, tmp_path):
    download.fetch("drosophila-vnc", tmp_path, published.url)
    (tmp_path / "stack1/raw/00.tif").write_bytes(FILES["stack1/raw/00.tif"][:100])

    assert download.fetch("drosophila-vnc", tmp_path, published.url) == 1
    assert (tmp_path / "stack1/raw/00.tif").read_bytes() == FILES["stack1/raw/00.tif"]


def test_a_file_that_the_server_lacks_and_a_server_that_is_not_there_are_named(published, tmp_path):
    (tmp_path / "server" / "README.md").unlink()
    with pytest.raises(DataError, match=r"README\.md cannot be downloaded: the server answered 404"):
        download.fetch("drosophila-vnc", tmp_path / "here", published.url)
    with pytest.raises(DataError, match="the server cannot be reached"):
        download.fetch("drosophila-vnc", tmp_path / "here", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="http://"):
        download.fetch("drosophila-vnc", tmp_path / "here", "localhost")


def test_the_registry_lists_what_the_layout_reads():
    listed = download.registry("drosophila-vnc")

    assert len(listed) == 121
    assert all(len(digest) == 64 and set(digest) <= set("0123456789abcdef") for digest in listed.values())
    assert {f"stack1/raw/{i:02d}.tif" for i in range(20)} | {f"stack2/raw/{i:02d}.tif" for i in range(20)} <= set(
        listed
    )
    assert download.PUBLISHED["drosophila-vnc"].url.rsplit("/", 1)[1].isalnum()


def test_the_published_set_comes_through_a_server_and_can_be_loaded(data_root, serve, tmp_path):
    if not (data_root / "drosophila-vnc").is_dir():
        pytest.skip("FBUNET_DATA does not hold drosophila-vnc/")
    server = serve(data_root / "drosophila-vnc")

    assert download.fetch("drosophila-vnc", tmp_path, server.url) == 121
    assert len(load_dataset(DataConfig(layout="drosophila-vnc", root=str(tmp_path))).images) == 20
