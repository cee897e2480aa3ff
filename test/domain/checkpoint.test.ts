// What checkpoints are made of, against vectors and against code that shares nothing with ours.
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  bodyHash,
  bodyOf,
  inOrderOfLeaves,
  LEAF_BYTES,
  type Leaf,
  leafAt,
  leavesToBytes,
  merkleTree,
} from "../../src/domain/checkpoint.ts";
import { extended, parseSnapshot, type Snapshot, sees, snapshotToText } from "../../src/log/snapshot.ts";

const sha256 = (...parts: Uint8Array[]) => createHash("sha256").update(Buffer.concat(parts)).digest();

/** RFC 9162, section 2.1.1, as it is written. */
function treeHash(entries: readonly Buffer[]): Buffer {
  if (entries.length === 0) return sha256();
  if (entries.length === 1) return sha256(Buffer.of(0), entries[0] as Buffer);
  let k = 1;
  while (k * 2 < entries.length) k *= 2;
  return sha256(Buffer.of(1), treeHash(entries.slice(0, k)), treeHash(entries.slice(k)));
}

function rootOf(entries: readonly Buffer[]): string {
  const tree = merkleTree();
  for (const entry of entries) tree.add(entry);
  return tree.root().toString("hex");
}

describe("the Merkle tree", () => {
  // From the tests of Certificate Transparency.
  const entries = [
    ...["", "00", "10", "2021", "3031", "40414243"],
    ...["5051525354555657", "606162636465666768696a6b6c6d6e6f"],
  ].map((hex) => Buffer.from(hex, "hex"));
  const roots = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
  ];

  it.each(roots.map((root, count) => ({ root, count })))(
    "rule 129: of $count entries it is the known one",
    ({ root, count }) => {
      expect(rootOf(entries.slice(0, count))).toBe(root);
    },
  );

  it("rule 129: of any number of entries it is that of the RFC's own words", () => {
    for (let count = 0; count <= 130; count++) {
      const some = Array.from({ length: count }, (_, i) => Buffer.from(`entry ${i}`));
      expect(rootOf(some), String(count)).toBe(treeHash(some).toString("hex"));
    }
  });
});

describe("leaves", () => {
  const leaf: Leaf = {
    id: "01a1f948-3d29-7992-b604-a58bd1d3171c",
    recordedAt: 1_795_183_623_464_011n,
    xid: 4_294_967_297n,
    hash: Buffer.alloc(32, 7),
  };

  it("rule 129: have 64 bytes, and are read as they were written", () => {
    const unsealed = { ...leaf, id: "01a1f948-3d29-7992-b604-a58bd1d3171d", recordedAt: -1n, hash: null };
    const bytes = leavesToBytes([leaf, unsealed]);
    expect(bytes.length).toBe(2 * LEAF_BYTES);
    expect([leafAt(bytes, 0), leafAt(bytes, 1)]).toEqual([leaf, unsealed]);
    expect(bytes.subarray(0, LEAF_BYTES).toString("hex")).toBe(
      `01a1f9483d297992b604a58bd1d3171c${1_795_183_623_464_011n.toString(16).padStart(16, "0")}0000000100000001${"07".repeat(32)}`,
    );
  });

  it("rule 129: stand in the order of transactions, then of ids", () => {
    const at = (xid: bigint, id: string) => ({ xid, id });
    const sorted = [at(9n, "b"), at(10n, "a"), at(10n, "b")];
    expect([...sorted].reverse().sort(inOrderOfLeaves)).toEqual(sorted);
    expect(inOrderOfLeaves(at(9n, "b"), at(9n, "b"))).toBe(0);
  });
});

it("rule 129: the body is all of a checkpoint in the form of RFC 8785", () => {
  const body = bodyOf({
    organizationId: "00000000-0000-7000-8000-000000000001",
    number: 2,
    epoch: 1,
    fromPosition: "700:700:",
    toPosition: "701:705:702",
    count: 3,
    total: 5,
    firstAt: 1_795_183_623_464_011n,
    lastAt: 1_795_183_624_000_000n,
    horizon: null,
    root: Buffer.alloc(32, 1),
    previousHash: Buffer.alloc(32, 2),
    keyId: Buffer.alloc(8, 3),
    createdAt: 1_795_183_625_000_000n,
  });
  expect(body).toBe(
    `{"count":3,"created_at":"2026-11-20T14:07:05.000Z","epoch":1,"first_at":"2026-11-20T14:07:03.464011Z","form":"audit-checkpoint/1","from_position":"700:700:","horizon":null,"key_id":"${"03".repeat(8)}","last_at":"2026-11-20T14:07:04.000Z","number":2,"organization_id":"00000000-0000-7000-8000-000000000001","previous_hash":"${"02".repeat(32)}","root":"${"01".repeat(32)}","to_position":"701:705:702","total":5}`,
  );
  expect(bodyHash(body).toString("hex")).toBe(sha256(Buffer.from(body)).toString("hex"));
});

describe("a position that is moved on by a part", () => {
  const all = Array.from({ length: 30 }, (_, i) => BigInt(i + 1));
  const seen = (snapshot: Snapshot) => all.filter((xid) => sees(snapshot, xid));

  it.each([
    ["5:10:5,7", "6:20:6,12,15"],
    ["10:10:", "20:20:"],
    ["3:8:3,4,5", "25:25:"],
    ["9:9:", "9:15:9,11"],
  ])("rule 128: from %s to %s it has what was there, and of the other all below the bound", (a, b) => {
    const [from, to] = [parseSnapshot(a), parseSnapshot(b)];
    for (let bound = 1n; bound <= 30n; bound++) {
      const part = extended(from, to, bound);
      expect(seen(part)).toEqual(all.filter((xid) => sees(from, xid) || (xid < bound && sees(to, xid))));
      expect(parseSnapshot(snapshotToText(part))).toEqual(part);
    }
  });
});
