"""A Hub on the loopback, in its own process: real HTTP for the unmodified `huggingface_hub` client, kept in memory.

    with LoopbackHub() as hub:
        hub.misbehave("PUT", "status", status=500, times=1)
        subprocess.run(..., env=os.environ | hub.environment)
        hub.files("me/repo")

It has repositories of one owner, `me`, of models or datasets, with commits, branches and tags, LFS uploads, ranges, and
`parentCommit`.
"""

import base64
import hashlib
import json
import re
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

# --- the side of the tests --------------------------------------------------------------------------------------------


class LoopbackHub:
    """Starts the server, and asks it what happened."""

    def __enter__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.address = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_):
        self.process.stdin.close()  # the server ends with its input
        self.process.wait(10)
        self.process.stdout.close()

    @property
    def environment(self):
        return {
            "HF_ENDPOINT": self.address,
            "HF_TOKEN": "hf_loopback",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": "hf_home",  # of each process where it works
        }

    def ask(self, what, **arguments):
        request = urllib.request.Request(f"{self.address}/_control/{what}", json.dumps(arguments).encode())
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def misbehave(self, pattern, kind, times=10**6, **more):
        """Answer the next `times` requests "METHOD /path" that `pattern` is found in: with `status`, by cutting the
        connection half-way ("drop"), with one byte changed ("corrupt"), or after somebody else's commit ("move", of
        `encoded` files to a repository)."""
        self.ask("misbehave", pattern=pattern, kind=kind, times=times, **more)

    def behave(self):
        self.ask("behave")

    def forget_all(self):
        """Be as it was at the start."""
        self.ask("forget_all")

    def files(self, repository, revision="main"):
        found = self.ask("files", repository=repository, revision=revision)
        return {name: base64.b64decode(content) for name, content in found.items()}

    def commits(self, repository):
        """The commits of main by their hashes, the latest last; the first is that of making the repository."""
        return self.ask("commits", repository=repository)

    def create(self, repository):
        """Somebody else's new repository."""
        self.ask("create", repository=repository)

    def commit(self, repository, files, revision="main"):
        """Somebody else's commit."""
        return self.ask("commit", repository=repository, revision=revision, files=encoded(files))

    def tag(self, repository, name, revision="main"):
        self.ask("tag", repository=repository, name=name, revision=revision)

    def traffic(self):
        """The requests so far, and the bytes sent of each file; then both start anew."""
        return self.ask("traffic")


def encoded(files):
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


# --- the server -------------------------------------------------------------------------------------------------------

KIND = "(?:api/models/|api/datasets/|datasets/)?"


class Repository:
    """Commits as (hash, files), branches and tags as hashes."""

    def __init__(self):
        self.history, self.refs = {}, {}
        self.add("main", {".gitattributes": b"*.safetensors filter=lfs\n"})

    def resolve(self, revision):
        return self.refs.get(revision, revision if revision in self.history else None)

    def files(self, revision):
        return self.history.get(self.resolve(revision), {})

    def add(self, branch, files):
        parts = [branch, str(len(self.history)), *(f"{n} {hashlib.sha256(c).hexdigest()}" for n, c in files.items())]
        commit = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.history[commit] = files
        self.refs[branch] = commit
        return commit


class State:
    def __init__(self):
        self.lock = threading.RLock()
        self.repositories, self.objects, self.faults = {}, {}, []
        self.requests, self.sent = [], {}

    def control(self, what, asked):
        repository = self.repositories.get(asked.get("repository"))
        if what == "misbehave":
            self.faults.append(asked)
        elif what == "behave":
            self.faults.clear()
        elif what == "forget":
            self.objects.clear()
        elif what == "forget_all":
            self.__init__()
        elif what == "files":
            found = repository.files(asked["revision"]) if repository else {}
            return encoded(found)
        elif what == "commits":
            return list(repository.history) if repository else []
        elif what == "create":
            self.repositories[asked["repository"]] = Repository()
        elif what == "commit":
            new = {name: base64.b64decode(content) for name, content in asked["files"].items()}
            return repository.add(asked["revision"], repository.files(asked["revision"]) | new)
        elif what == "tag":
            repository.refs[asked["name"]] = repository.resolve(asked["revision"])
        elif what == "traffic":
            found = {"requests": self.requests, "sent": self.sent}
            self.requests, self.sent = [], {}
            return found
        return None

    def fault(self, request):
        """The first fault for this request that is still to happen."""
        for fault in self.faults:
            if fault["times"] > 0 and re.search(fault["pattern"], request):
                fault["times"] -= 1
                return fault
        return {"kind": None}


class Handler(BaseHTTPRequestHandler):
    state = State()
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        try:
            super().handle()
        except (ConnectionError, TimeoutError):  # the client may be killed
            self.close_connection = True

    def handle_any(self):
        body = self.body()
        self.path = unquote(self.path)
        with self.state.lock:
            if self.path.startswith("/_control/"):
                return self.answer(self.state.control(self.path.removeprefix("/_control/"), json.loads(body)))
            request = f"{self.command} {self.path}"
            self.state.requests.append(request)
            self.fault = self.state.fault(request)
            if self.fault["kind"] == "status":
                return self.answer({"error": "the loopback Hub was told to refuse"}, self.fault["status"])
            if self.fault["kind"] == "drop" and self.command in ("POST", "PUT"):
                self.close_connection = True
                return self.connection.shutdown(2)
            if self.fault["kind"] == "move":
                self.state.control("commit", self.fault | {"revision": "main"})
            kind = "GET" if self.command == "HEAD" else self.command
            return getattr(self, f"answer_{kind}")(body)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, content, status=200, **headers):
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def address(self):
        return f"http://{self.headers['Host']}"

    def answer_PUT(self, body):  # noqa: N802
        oid = self.path.rsplit("/", 1)[1]
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer({"error": "not what was announced"}, 400)
        self.state.objects[oid] = body
        return self.answer({})

    def answer_POST(self, body):  # noqa: N802
        state = self.state
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            known = name in state.repositories
            if not known:
                state.repositories[name] = Repository()
            return self.answer({"url": f"{self.address}/{name}", "error": "exists"}, 409 if known else 200)
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        match = re.fullmatch(
            rf"/{KIND}([^/]+/[^/]+?)(?:\.git)?/(preupload|info|commit|tag|branch|paths-info)/(.+)", self.path
        )
        if match is None or match[1] not in state.repositories:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        name, what, revision = match.groups()
        repository = state.repositories[name]
        if what == "paths-info":
            files, wanted = repository.files(revision), parse_qs(body.decode())["paths"]
            return self.answer([entry(path, files[path]) for path in wanted if path in files])
        asked = [json.loads(line) for line in body.splitlines()]
        if what == "preupload":
            modes = {True: "lfs", False: "regular"}
            return self.answer(
                {
                    "files": [
                        {
                            "path": file["path"],
                            "shouldIgnore": False,
                            "uploadMode": modes[file["path"].endswith((".safetensors", ".png"))],
                        }
                        for file in asked[0]["files"]
                    ]
                }
            )
        if what == "info":  # LFS batch
            objects = []
            for wanted in asked[0]["objects"]:
                found = {"oid": wanted["oid"], "size": wanted["size"], "authenticated": True}
                if wanted["oid"] not in state.objects:  # what is there need not be sent
                    found["actions"] = {"upload": {"href": f"{self.address}/objects/{wanted['oid']}"}}
                objects.append(found)
            return self.answer({"transfer": "basic", "objects": objects})
        if what == "branch":
            if revision in repository.refs:
                return self.answer({"error": "exists"}, 409)
            repository.refs[revision] = repository.refs["main"]
            return self.answer({})
        if what == "tag":
            repository.refs[asked[0]["tag"]] = repository.resolve(revision)
            return self.answer({})
        return self.commit(name, repository, revision, asked)

    def commit(self, name, repository, branch, lines):
        if branch not in repository.refs:
            return self.answer({"error": "no such branch"}, 404, X_Error_Code="RevisionNotFound")
        files = dict(repository.files(branch))
        for line in lines:
            value = line["value"]
            if (
                line["key"] == "header"
                and value.get("parentCommit", repository.refs[branch]) != repository.refs[branch]
            ):
                return self.answer({"error": "the branch has moved on; parentCommit is not its head"}, 412)
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.state.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.add(branch, files)
        return self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.address}/{name}/commit/{oid}"})

    def answer_GET(self, _):  # noqa: N802
        path = self.path.split("?")[0]
        match = re.fullmatch(rf"/{KIND}([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?", path)
        if match is None or match[1] not in self.state.repositories:
            return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        name, what, revision, file = match.groups()
        repository = self.state.repositories[name]
        commit = repository.resolve(revision or "main")
        if commit is None:
            return self.answer({"error": "no such revision"}, 404, X_Error_Code="RevisionNotFound")
        files = repository.history[commit]
        if what in (None, "revision"):
            return self.answer({"id": name, "sha": commit, "siblings": [{"rfilename": f} for f in files], "tags": []})
        if what == "tree":
            return self.answer(list(tree(files, file, "recursive=false" not in self.path)))
        if file not in files:
            return self.answer({"error": "no such file"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        return self.send_file(file, files[file], commit)

    def send_file(self, name, content, commit):
        tag = hashlib.sha256(content).hexdigest()
        if self.fault["kind"] == "corrupt":
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        part = content[int(start[1]) :] if start else content
        self.send_response(206 if start else 200)
        headers = {"Content-Length": len(part), "ETag": f'"{tag}"', "X-Repo-Commit": commit}
        if start:
            headers["Content-Range"] = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
        for header, value in headers.items():
            self.send_header(header, str(value))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault["kind"] == "drop":
            part = part[: len(part) // 2]
            self.close_connection = True
        self.state.sent[name] = self.state.sent.get(name, 0) + len(part)
        self.wfile.write(part)


def tree(files, folder, recursive):
    """The files in a folder, and unless `recursive` the folders there in place of what is in them."""
    start = f"{folder}/" if folder else ""
    seen = set()
    for path, content in sorted(files.items()):
        if not path.startswith(start):
            continue
        inner, _, below = path.removeprefix(start).partition("/")
        if recursive or not below:
            yield entry(path, content)
        elif inner not in seen:
            seen.add(inner)
            yield {"type": "directory", "path": start + inner, "oid": hashlib.sha1(inner.encode()).hexdigest()}


def entry(name, content):
    """A file as the tree of a commit lists it."""
    return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()
