"""A Hub on the loopback: real HTTP for the unmodified `huggingface_hub` client, kept in memory.

with LoopbackHub() as hub:
    subprocess.run(..., env=os.environ | hub.environment)
    hub.files("me/repo")
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LoopbackHub:
    """Repositories of one owner, `me`; `fail_commits` makes the Hub refuse to commit."""

    def __init__(self, fail_commits=False):
        self.repositories, self.objects, self.requests, self.tags = {}, {}, [], {}
        self.sent = {}  # bytes by file
        self.fail_commits = fail_commits
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def environment(self):
        return {
            "HF_ENDPOINT": self.address, "HF_TOKEN": "hf_loopback", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }  # fmt: skip

    def files(self, repository):
        return self.repositories[repository][-1] if self.repositories[repository] else {}

    def commits(self, repository):
        """The commits by their hashes, the latest last."""
        return {commit_hash(position): files for position, files in enumerate(self.repositories[repository])}

    def resolve(self, repository, revision):
        """The hash of the commit that a branch, tag or hash names; None if there is none."""
        commits = self.commits(repository)
        if revision == "main":
            return list(commits)[-1] if commits else None
        revision = self.tags.get((repository, revision), revision)
        return revision if revision in commits else None

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def commit_hash(position):
    return hashlib.sha1(str(position).encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    state: LoopbackHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content, status=200, **headers):
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        self.state.requests.append(f"{self.command} {self.path}")
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self):
        hub, body = self.state, self.body()
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            known = name in hub.repositories
            hub.repositories.setdefault(name, [])
            return self.answer({"url": f"{hub.address}/{name}"}, 409 if known else 200)
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/.+", self.path):
            files = json.loads(body)["files"]
            return self.answer({
                "files": [
                    {"path": file["path"], "shouldIgnore": False,
                     "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular"}
                    for file in files
                ]
            })  # fmt: skip
        if match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", self.path):
            objects = []
            for asked in json.loads(body)["objects"]:
                found = {"oid": asked["oid"], "size": asked["size"], "authenticated": True}
                if asked["oid"] not in hub.objects:  # what is there need not be sent
                    found["actions"] = {"upload": {"href": f"{hub.address}/objects/{asked['oid']}"}}
                objects.append(found)
            return self.answer({"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/(.+)/commit/.+", self.path):
            if hub.fail_commits:
                return self.answer({"error": "the Hub is out of order"}, 500)
            return self.commit(match[1], [json.loads(line) for line in body.splitlines()])
        if match := re.fullmatch(r"/api/models/(.+)/tag/(.+)", self.path):
            hub.tags[match[1], json.loads(body)["tag"]] = hub.resolve(match[1], match[2])
            return self.answer({})
        return self.answer({"error": f"no {self.path}"}, 404)

    def commit(self, repository, lines):
        files = dict(self.state.files(repository))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        self.state.repositories[repository].append(files)
        oid = commit_hash(len(self.state.repositories[repository]) - 1)
        return self.answer(
            {"success": True, "commitOid": oid, "commitUrl": f"{self.state.address}/{repository}/commit/{oid}"}
        )

    def do_PUT(self):
        body = self.body()
        oid = self.path.rsplit("/", 1)[1]
        assert hashlib.sha256(body).hexdigest() == oid
        self.state.objects[oid] = body
        self.answer({})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.body()
        hub, path = self.state, self.path.split("?")[0]
        match = re.fullmatch(r"/(?:api/models/)?([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?", path)
        if match is None or match[1] not in hub.repositories:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        repository, what, revision, file = match.groups()
        commit = hub.resolve(repository, revision or "main")
        if commit is None and revision not in (None, "main"):
            return self.answer({"error": "no such revision"}, 404, X_Error_Code="RevisionNotFound")
        files = hub.commits(repository).get(commit, {})
        if what in (None, "revision"):
            return self.answer({"id": repository, "sha": commit or "0" * 40, "siblings": [], "tags": []})
        if what == "tree":
            return self.answer([entry(name, content) for name, content in sorted(files.items())])
        if file not in files:
            return self.answer({"error": "no such file"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        self.send_response(200)
        content = files[file]
        tag = hashlib.sha256(content).hexdigest()
        for name, value in {"Content-Length": len(content), "ETag": f'"{tag}"', "X-Repo-Commit": commit}.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            hub.sent[file] = hub.sent.get(file, 0) + len(content)
            self.wfile.write(content)


def entry(name, content):
    """A file as the tree of a commit lists it."""
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
