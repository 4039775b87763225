"""Ticket repositories that somebody has tampered with: mutations of a whole one, and what opening it may do.

A forgery is consistent: after a mask was changed, `dilt_config.json` names the new one, so that its content is read.
"""

import json
import random
import struct

from dilt_hf.explore.images import load_processor
from dilt_hf.tickets.card import make_card
from dilt_hf.tickets.tickets import Tickets
from dilt_hf.utils.errors import DiltError
from dilt_hf.utils.files import sha256_of_file

FILES = [
    "dilt_config.json",
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "masks/partition_0.safetensors",
    "masks/partition_1.safetensors",
    "core/config.json",
    "core/model.safetensors",
    "union/sparse.safetensors",
]

VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2,
    7,
    10**6,
    2**31,
    2**53,
    2**63,
    2**64,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "core",
    "union+core",
    "../../etc/passwd",
    "/etc/passwd",
    "a" * 5000,
    "\u0000",
    "\ud800",
    "é",
    [],
    {},
    [[]],
    [1] * 1000,
    {"a": {"b": {}}},
    [None],
    "F64",
    "BOOL",
    "I64",
    "F8_E5M2",
    "U8",
    [0, 8],
    [8, 0],
    "hf-hub:x/y",
]


def mutate_bytes(content, rng):
    """Cut, flipped, doubled, moved or overwritten."""
    data = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        where = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            del data[where:]
        elif kind == 1 and where < len(data):
            data[where] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[where:where] = rng.randbytes(rng.choice([1, 8, 100]))
        elif kind == 3:
            del data[where : where + rng.choice([1, 8, 100])]
        elif kind == 4:
            data[where : where + 8] = struct.pack("<Q", rng.choice([0, 1, 2**20, 2**32, 2**40, 2**63, 2**64 - 1]))
        else:
            data[where:where] = data[: rng.choice([8, 100])]
    return bytes(data)


def mutate_json(value, rng):
    """The same structure with one place changed, removed, renamed or copied."""
    value = json.loads(json.dumps(value))
    node = value
    while isinstance(node, (dict, list)) and node:
        key = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
        if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.8:
            node = node[key]
            continue
        kind = rng.randrange(5)
        if kind == 0 and isinstance(node, dict):
            node[rng.choice(["x", "../x", "", "__metadata__", *node])] = node.pop(key)
        elif kind == 1:
            node.pop(key)
        elif kind == 2 and isinstance(node, list):
            node.extend(node)
        elif kind == 3 and isinstance(node[key], int):
            node[key] += rng.choice([-8, -1, 1, 8])
        else:
            node[key] = rng.choice(VALUES)
        break
    return value


def dumps(value, rng):
    """JSON text; now and then with a key given twice, or nested deeply."""
    text = json.dumps(value)
    kind = rng.randrange(20)
    if kind == 0 and isinstance(value, dict) and value:
        key = json.dumps(rng.choice(list(value)))
        text = f"{{{key}: {json.dumps(rng.choice(VALUES))}, {text[1:]}"
    elif kind == 1:
        text = text.replace("{", '{"deep": ' + "[" * 100_000 + "]" * 100_000 + ", ", 1)
    return text.encode(errors="surrogatepass")


def mutate_safetensors(content, rng):
    """The header, or the metadata in it, changed, with its length put right."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    metadata = header.get("__metadata__", {})
    inner = next((key for key in metadata if key.startswith("dilt")), None)
    if inner and rng.random() < 0.5:
        metadata[inner] = dumps(mutate_json(json.loads(metadata[inner]), rng), rng).decode(errors="replace")
    else:
        header = mutate_json(header, rng)
    text = dumps(header, rng)
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def mutated(name, content, rng):
    """A changed version of one file of a repository."""
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    if name.endswith(".safetensors"):
        return mutate_safetensors(content, rng)
    return dumps(mutate_json(json.loads(content), rng), rng)


def forge(folder, name, content):
    """Put a changed file in its place, and keep the rest consistent with it."""
    (folder / name).write_bytes(content)
    if name == "dilt_config.json":
        return
    config = json.loads((folder / "dilt_config.json").read_bytes())
    if name.startswith("masks/"):
        config["masks_sha256"][int(name[-len("0.safetensors")])] = sha256_of_file(folder / name)
    elif name == "model.safetensors":
        config["theta0"]["sha256"] = sha256_of_file(folder / name)
    else:
        for ticket, facts in config["materialised"].items():
            if name.startswith(f"{ticket}/") and name.endswith(".safetensors"):
                facts["sha256"] = sha256_of_file(folder / name)
    (folder / "dilt_config.json").write_text(json.dumps(config))


def open_everything(folder, changed="dilt_config.json"):
    """All that a user may do with a repository, as far as the `changed` file enters into it; what went wrong, one error
    of this package each, and no other."""
    errors = []

    def attempt(action):
        try:
            return action()
        except DiltError as error:
            errors.append(error)
            return None

    tickets = attempt(lambda: Tickets.from_pretrained(folder))
    if tickets is None:
        return errors
    if changed.startswith(("dilt_config", "masks")):
        attempt(lambda: (repr(tickets), tickets.summary(), tickets.packed("core+specialist_0-union")))
        attempt(lambda: make_card(tickets.config, tickets.partitions, "me/x"))
    if changed.startswith("preprocessor"):
        attempt(lambda: load_processor(tickets))
    elif not changed.startswith(("core", "union")):
        attempt(lambda: tickets.load_model("core"))
    for name in ("core", "union"):
        if changed.startswith((name, "dilt_config")):
            attempt(lambda name=name: tickets.load_model(name, trained=True))
    return errors


def rng_of(seed):
    return random.Random(seed)
