"""Verifies an export of the audit log and its checkpoints with nothing of EntityService: Python 3 and openssl 3.

    entity-service audit-checkpoints --leaves > checkpoints.ndjson      # first: it lists no event that the export lacks
    entity-service events --json --limit 999999999 > events.ndjson
    entity-service audit-key > audit-key.pem         # on the machine of the service
    python3 verify_audit.py events.ndjson checkpoints.ndjson audit-key.pem [KEPT.ndjson ...]
KEPT are checkpoints that were printed earlier and kept elsewhere: only they show a log that was rolled back or made anew.
Exits with 1 where something is wrong. Events that no checkpoint lists are counted, since some are newer; and so are those
that a checkpoint lists and the export lacks, if they are from before the horizon that the last checkpoint names.
"""
import base64, collections, datetime, hashlib, json, math, re, subprocess, sys, tempfile

NOTHING, HOUR = bytes(32), 3600 * 10**6  # no transaction takes an hour
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
sha256 = lambda *parts: hashlib.sha256(b"".join(parts)).digest()
bytes_of = lambda message, key: base64.b64decode(message.get(key, ""))
findings, counts = [], collections.Counter()
find = lambda *what: findings.append("  ".join(what))

class Number(str): """A number as JavaScript has written it, which is the form of RFC 8785."""
def jcs(value):
    if isinstance(value, Number): return str(value)
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be"))
        return "{" + ",".join(f"{jcs(key)}:{jcs(value[key])}" for key in keys) + "}"
    if isinstance(value, list): return "[" + ",".join(map(jcs, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
def lines(path):
    for line in open(path, encoding="utf-8"): yield json.loads(line, parse_int=Number, parse_float=Number)
def time(text):
    """With three decimals, or with six where there are microseconds."""
    seconds, fraction = re.fullmatch(r"([^.Z]*)\.?(\d*)Z", text).groups()
    fraction = (fraction + "000000")[:6]
    return f"{seconds}.{fraction[:3] if fraction.endswith('000') else fraction}Z"
def micros(text):
    return (datetime.datetime.fromisoformat(time(text)[:-1] + "+00:00") - EPOCH) // datetime.timedelta(microseconds=1)
def hash_of(event, organization):
    get = lambda key, absent=None: event.get(key) or absent
    personal = sha256(bytes_of(event, "salt"), jcs([get("externalId"), get("externalIds", []), get("previousValues", {}),
        get("newValues", {}), get("reason"), get("metadata", {})]).encode())
    return sha256(bytes_of(event, "previousHash"), jcs(["entity-event/1", organization, event["id"], event["entityId"],
        Number(event["entityVersion"]), event["entityType"].removeprefix("ENTITY_TYPE_").lower(),
        event["type"].removeprefix("EVENT_TYPE_"), get("updatedFields", []), event["actor"], event["principal"],
        event["source"], get("requestId"), time(event["recordedAt"]), get("occurredAt") and time(event["occurredAt"]),
        personal.hex()]).encode())
def root_of(leaves):
    """The Merkle tree hash of RFC 9162, section 2.1.1."""
    level = [sha256(b"\0", leaf) for leaf in leaves]
    while len(level) > 1:
        pairs = [sha256(b"\1", a, b) for a, b in zip(level[::2], level[1::2])]
        level = pairs + level[2 * len(pairs):]
    return level[0].hex()
def is_signed(body, signature, key):
    with tempfile.NamedTemporaryFile() as text, tempfile.NamedTemporaryFile() as seal:
        for file, data in ((text, body), (seal, signature)): file.write(data), file.flush()
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key, "-rawin", "-in", text.name, "-sigfile", seal.name]
        return subprocess.run(command, capture_output=True).returncode == 0

events_file, checkpoints_file, key_file, *kept_files = sys.argv[1:]
listed, bodies, bare, before, says = {}, {}, [], None, {}  # leaves by event, bodies by number, those without leaves; the last one
for checkpoint in lines(checkpoints_file):
    body, data, where = checkpoint["body"].encode(), bytes_of(checkpoint, "leaves"), f"checkpoint {checkpoint['number']}"
    says = json.loads(body)
    if says["previous_hash"] != (sha256(before) if before else NOTHING).hex(): find("CHECKPOINT_BROKEN", where, "order")
    leaves = [data[at:at + 64] for at in range(0, len(data), 64)]
    if leaves and (len(leaves), root_of(leaves)) != (says["count"], says["root"]): find("CHECKPOINT_BROKEN", where, "leaves")
    bare += [] if leaves else [checkpoint["number"]]
    listed.update((leaf[:16].hex(), (leaf, where)) for leaf in leaves)
    counts["checkpoints"] += 1
    before, signature, bodies[checkpoint["number"]] = body, bytes_of(checkpoint, "signature"), checkpoint["body"]
if before and not is_signed(before, signature, key_file): find("SIGNATURE_INVALID", where)  # it names the one before it, and so all
horizon = micros(says["horizon"]) if says.get("horizon") else -math.inf
for number in bare:
    if micros(json.loads(bodies[number])["last_at"]) > horizon: find("CHECKPOINT_BROKEN", f"checkpoint {number}", "no leaves")
for kept in (kept for path in kept_files for kept in lines(path)):
    if bodies.get(kept["number"]) != kept["body"]: find("CHECKPOINT_BROKEN", f"checkpoint {kept['number']}", "not the kept one")
entities = collections.defaultdict(dict)
for event in lines(events_file): entities[event["entityId"]][int(event["entityVersion"])] = event
for entity, versions in entities.items():
    last = NOTHING if min(versions) == 1 else None  # of what was pruned before nothing can be told
    for version, event in sorted(versions.items()):
        where, seal = f"entity {entity}  version {version}  event {event['id']}", bytes_of(event, "hash")
        leaf, _ = listed.pop(event["id"].replace("-", ""), (None, None))
        counts["verified" if seal else "unsealed"] += 1
        counts["not in a checkpoint"] += leaf is None
        if leaf is None and seal and before and micros(event["recordedAt"]) < micros(says["last_at"]) - HOUR: find("EXTRA", where)
        if version - 1 not in versions and version != min(versions): find("MISSING", f"before {where}")
        elif seal and last is not None and bytes_of(event, "previousHash") != last: find("OUT_OF_ORDER", where)
        is_listed = leaf is None or (leaf[32:], int.from_bytes(leaf[16:24], "big")) == (seal or NOTHING, micros(event["recordedAt"]))
        is_sound = hash_of(event, says.get("organization_id")) == seal if seal else last in (None, NOTHING)
        if not is_sound or not is_listed: find("CHANGED", where)
        last = seal or last
for leaf, where in listed.values():
    is_pruned = int.from_bytes(leaf[16:24], "big") <= horizon
    counts["pruned"] += is_pruned
    if not is_pruned: find("MISSING", f"event {leaf[:16].hex()}", where)
print(*findings, ", ".join(f"{what} {count}" for what, count in counts.items()), f"findings {len(findings)}", sep="\n")
sys.exit(1 if findings else 0)
