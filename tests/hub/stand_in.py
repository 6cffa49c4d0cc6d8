"""A small Hub on loopback: what `huggingface_hub`, `datasets` and `evaluate` really ask of it, kept in memory.

One user, `me`, with one token. Files that git keeps as they are go into the commit, large ones through Git LFS with
its basic transfer. Xet is another server with a protocol of its own, which is not here: clients are told so in the way
that they document (`HF_HUB_DISABLE_XET=1`). Every request is noted, and any of them can be made to fail.
"""

import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from conftest import run_python

TOKEN = "hf_" + "t" * 34
USER = "me"
LICENSES = ("apache-2.0", "cc-by-nc-sa-4.0", "mit", "other")  # of many
LARGE = (".safetensors", ".parquet", ".png")  # what the Hub's .gitattributes gives to LFS
DROP = "drop"  # a fault: the connection breaks in the middle of the request


@dataclass
class Repo:
    """A repository: commits by their ids, branches, each a list of commits, newest last."""

    private: bool
    blobs: dict[str, bytes] = field(default_factory=dict)  # of LFS, by their hashes
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, list[str]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        """Add a commit that holds `files` to a branch."""
        oid = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        self.branches.setdefault(branch, []).append(oid)
        return oid

    def find(self, revision: str) -> str | None:
        """The commit that a branch's name or a commit's id means."""
        if revision in self.branches:
            return self.branches[revision][-1]
        return revision if revision in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """All files of a revision."""
        return self.commits[self.find(revision)]


class Answer(Exception):
    """A status with a JSON body, and the Hub's own code for what is wrong."""

    def __init__(self, status: int, message: str, code: str | None = None, **body):
        self.status, self.headers = status, {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.body = {"error": message, **body}


class Hub:
    """The server; use it as a context manager.

    `repos` are by (type, name), such as `("model", "me/name")`; `requests` are `"POST /api/…"` in order; `faults` maps
    a part of a request to a status, or to `DROP`, and each strikes once.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.requests: list[str] = []
        self.faults: dict[str, int | str] = {}
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """What a client's process needs to talk to this Hub and to nothing else."""
        nowhere = "http://127.0.0.1:9"  # the discard port: whatever asks for another server fails at once
        environment = {
            "PATH": "/usr/bin:/bin", "HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg",
            "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere, "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        }  # fmt: skip
        return environment | ({} if token is None else {"HF_TOKEN": token})

    def run(self, home: Path, *command: object, token: str | None = TOKEN) -> "subprocess.CompletedProcess[str]":
        """Run Python in a process that knows this Hub and no other."""
        return run_python(*command, cwd=home, env=self.environment(home, token))

    def strike(self, request: str) -> int | str | None:
        """The fault that a request meets."""
        part = next((part for part in self.faults if part in request), None)
        return None if part is None else self.faults.pop(part)


REPO = r"(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
FILE = r"/(?:(?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
ROUTES = [  # method, path, what answers
    ("POST", r"/api/validate-yaml", "validate"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", rf"/api/{REPO}/branch/(?P<revision>[^/]+)", "branch"),
    ("POST", rf"/api/{REPO}/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", r"/(?:(?P<kind>dataset|space)s/)?(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/storage/(?P<kind>\w+)/(?P<name>[^/]+/[^/]+)/(?P<oid>\w+)", "store"),
    ("POST", rf"/api/{REPO}/commit/(?P<revision>[^/]+)", "commit"),
    ("GET", rf"/api/{REPO}(?:/revision/(?P<revision>[^/]+))?", "info"),
    ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
    ("HEAD", FILE, "resolve"),
    ("GET", FILE, "resolve"),
]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def handle_request(self):
        """Note the request, let a fault strike, and answer."""
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        request = f"{self.command} {url.path}"
        self.hub.requests.append(request)
        fault = self.hub.strike(request)
        length = int(self.headers.get("Content-Length", 0))
        if fault == DROP:
            self.rfile.read(min(length, 10))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        try:
            if isinstance(fault, int):
                raise Answer(fault, f"Refused with {fault}")
            for method, pattern, name in ROUTES:
                match = re.fullmatch(pattern, url.path)
                if match and method == self.command:
                    getattr(self, name)(**{key: value and unquote(value) for key, value in match.groupdict().items()})
                    return
            raise Answer(404, "Not found")
        except Answer as answer:
            self.send(answer.body, answer.status, answer.headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def log_message(self, format, *args):
        """Requests are noted in `Hub.requests`, not on stderr."""

    def send(self, content, status=200, headers=None):
        """Send JSON, or bytes as they are."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(data))} | (headers or {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # --- who asks, and for what ----------------------------------------------------------------------------------

    def known(self) -> bool:
        """Whether the request has the user's token; a wrong one is refused, none is an anonymous reader's."""
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {TOKEN}"):
            raise Answer(401, "Invalid credentials in Authorization header")
        return authorization is not None

    def repo(self, kind: str | None, name: str, write: bool = False) -> Repo:
        """The repository that is named, if this user may read or write it."""
        known, repo = self.known(), self.hub.repos.get((kind or "model", name))
        if write and not known:
            raise Answer(401, "Invalid username or password.")
        if repo is None or (repo.private and not known):
            raise Answer(404 if known else 401, "Repository not found", "RepoNotFound")
        if write and name.split("/")[0] != USER:
            raise Answer(403, "Forbidden: you need write access to this repository")
        return repo

    def revision(self, repo: Repo, revision: str | None) -> str:
        """The commit that is meant."""
        oid = repo.find(revision or "main")
        if oid is None:
            raise Answer(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    # --- writing -------------------------------------------------------------------------------------------------

    def validate(self):
        text = json.loads(self.body)["content"]
        metadata = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        if metadata.get("license", "other") not in LICENSES:
            raise Answer(400, "Invalid metadata", errors=[{"message": f'"license" must be one of {LICENSES}'}])
        self.send({"errors": [], "warnings": []})

    def create(self):
        asked = json.loads(self.body)
        kind, owner = asked.get("type", "model"), asked["organization"] or USER
        name = f"{owner}/{asked['name']}"
        if not self.known():
            raise Answer(401, "Invalid username or password.")
        if owner != USER:
            raise Answer(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repos:
            raise Answer(409, f"You already created this {kind} repo", url=url)
        repo = self.hub.repos[kind, name] = Repo(private=asked.get("visibility") == "private")
        repo.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})
        self.send({"url": url, "name": name})

    def branch(self, kind, name, revision):
        repo = self.repo(kind, name, write=True)
        if revision in repo.branches:
            raise Answer(409, f"Reference already exists: {revision}")
        repo.branches[revision] = [self.revision(repo, "main")]
        self.send({})

    def preupload(self, kind, name, revision):
        repo = self.repo(kind, name, write=True)
        held = repo.commits[self.revision(repo, revision)]
        self.send({"files": [
            {
                "path": file["path"], "shouldIgnore": False,
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "oid": _oid(file["path"], held[file["path"]]) if file["path"] in held else None,
            }
            for file in json.loads(self.body)["files"]
        ]})  # fmt: skip

    def batch(self, kind, name):
        repo, kind = self.repo(kind, name, write=True), kind or "model"
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in repo.blobs:
                item["actions"] = {"upload": {"href": f"{self.hub.url}/storage/{kind}/{name}/{item['oid']}"}}
        self.send({"transfer": "basic", "objects": objects})

    def store(self, kind, name, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Answer(400, "The content is not what was announced")
        self.hub.repos[kind, name].blobs[oid] = self.body
        self.send({})

    def commit(self, kind, name, revision):
        repo = self.repo(kind, name, write=True)
        files = dict(repo.commits[self.revision(repo, revision)])
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = repo.blobs[value["oid"]]
        oid = repo.commit(revision, files)
        self.send({"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid})

    # --- reading -------------------------------------------------------------------------------------------------

    def info(self, kind, name, revision):
        repo = self.repo(kind, name)
        oid = self.revision(repo, revision)
        self.send({
            "id": name, "sha": oid, "private": repo.private, "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": path} for path in repo.commits[oid]],
        })  # fmt: skip

    def tree(self, kind, name, revision, path):
        repo = self.repo(kind, name)
        below = f"{path}/" if path else ""
        files = repo.commits[self.revision(repo, revision)]
        found = {
            file: content if "/" not in file[len(below):] or self.query.get("recursive") in ("true", "True") else None
            for file, content in files.items() if file.startswith(below)
        }  # fmt: skip
        folders = {below + file[len(below) :].split("/")[0] for file, content in found.items() if content is None}
        if path and not found:
            raise Answer(404, f"{path} does not exist", "EntryNotFound")
        self.send(
            [_describe(file, content) for file, content in found.items() if content is not None]
            + [_describe(folder, None) for folder in sorted(folders)]
        )

    def resolve(self, kind, name, revision, path):
        repo = self.repo(kind, name)
        oid = self.revision(repo, revision)
        content = repo.commits[oid].get(path)
        if content is None:
            raise Answer(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{_oid(path, content)}"'}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if part is None:
            self.send(content, headers=headers)
        else:  # as archives are read, from their ends
            first, last = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self.send(content[first : last + 1], 206, headers)


def _oid(path: str, content: bytes) -> str:
    """A file's id: the hash of its content in LFS, git's hash otherwise."""
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _describe(path: str, content: bytes | None) -> dict:
    """An entry of a tree; a folder has no content."""
    if content is None:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
    entry = {"type": "file", "path": path, "oid": hashlib.sha1(content).hexdigest(), "size": len(content)}
    if path.endswith(LARGE):
        entry["lfs"] = {"oid": _oid(path, content), "size": len(content), "pointerSize": 134}
    return entry
