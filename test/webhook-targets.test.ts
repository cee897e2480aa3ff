// Where webhooks may go. Loopback stands for every address that is not public: canaries listen there, and must get nothing.
import { execFile } from "node:child_process";
import { Agent } from "node:http";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { isPublicAddress } from "../src/webhooks/addresses.ts";
import { post } from "../src/webhooks/request.ts";
import { createLookup } from "../src/webhooks/resolve-name.ts";
import { createSender, type SenderOptions } from "../src/webhooks/send.ts";
import { parseAllowList, urlProblem } from "../src/webhooks/url.ts";
import { canary, httpReceiver, nameServer, type Receiver, socketReceiver } from "./webhook-receivers.ts";

const nothing = parseAllowList("");
const forbidden = { error: "ADDRESS_FORBIDDEN", latencyMs: expect.any(Number) };

let bird: Receiver;
beforeAll(async () => {
  bird = await canary();
});
afterAll(() => bird[Symbol.asyncDispose]());

async function send(url: string, options: Partial<SenderOptions> = {}) {
  await using sender = createSender({ allow: nothing, timeoutMs: 3_000, ...options });
  return await sender.send({ url, headers: { "content-type": "application/json" }, body: "{}" });
}

// --- Addresses ----------------------------------------------------------------------------------

/** The IANA registries of special-purpose addresses, row by row, with the multicast and reserved blocks. */
const SPECIAL = [
  ...["0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"],
  ...["192.0.0.0/24", "192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/32"],
  ...["192.0.0.171/32", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"],
  ...["192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"],
  ...["255.255.255.255/32"],
  ...["::1/128", "::/128", "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64"],
  ...["100:0:0:1::/64", "2001::/23", "2001::/32", "2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48"],
  ...["2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28", "2001:db8::/32", "2002::/16"],
  ...["2620:4f:8000::/48", "3ffe::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"],
  // Not assigned, next to what is: global unicast is 2000::/3.
  ...["1000::/4", "4000::/3", "6000::/3", "8000::/3", "a000::/3", "c000::/3", "e000::/4"],
];
/** Neighbours of the blocks above, and well-known addresses. */
const PUBLIC = [
  ...["1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"],
  ...["169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.0.3.0"],
  ...["192.31.195.255", "192.31.197.0", "192.52.192.255", "192.52.194.0", "192.88.98.255", "192.88.100.0"],
  ...["192.167.255.255", "192.169.0.0", "192.175.47.255", "192.175.49.0", "198.17.255.255", "198.20.0.0"],
  ...["198.51.99.255", "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255", "8.8.8.8", "1.1.1.1"],
  ...["2000::", "2001:200::", "2001:db7:ffff::", "2001:db9::", "2003::", "2606:4700:4700::1111", "2620:4f:7fff::"],
  ...["2620:4f:8001::", "2a00:1450:4001::8a", "3ffd:ffff::", "3fff:1000::"],
];

const toBits = (address: string) =>
  address.includes(":")
    ? ([128n, BigInt(`0x${groupsOf(address).join("")}`)] as const)
    : ([32n, address.split(".").reduce((sum, part) => sum * 256n + BigInt(part), 0n)] as const);
function groupsOf(address: string): string[] {
  const [head = "", tail = ""] = address.split("::");
  const [before, behind] = [head.split(":").filter(Boolean), tail.split(":").filter(Boolean)];
  const all = [...before, ...Array<string>(8 - before.length - behind.length).fill("0"), ...behind];
  return all.map((group) => group.padStart(4, "0"));
}
const fromBits = (size: bigint, bits: bigint) =>
  size === 32n
    ? [24n, 16n, 8n, 0n].map((shift) => (bits >> shift) & 255n).join(".")
    : (bits.toString(16).padStart(32, "0").match(/.{4}/g) ?? []).join(":");

describe("addresses", () => {
  it.each(SPECIAL)("rule 66: %s is not public, from its first address to its last", (prefix) => {
    const [address = "", length = ""] = prefix.split("/");
    const [size, first] = toBits(address);
    const last = first + (1n << (size - BigInt(length))) - 1n;
    const middle = (first + last) / 2n;
    for (const bits of [first, middle, last]) expect(isPublicAddress(fromBits(size, bits))).toBe(false);
  });

  it("rule 66: their neighbours are public", () => {
    expect(PUBLIC.filter((address) => !isPublicAddress(address))).toEqual([]);
  });

  it("rule 66: what holds an IPv4 address is not public, whatever that address is", () => {
    for (const address of ["::8.8.8.8", "::ffff:8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"])
      expect(isPublicAddress(address)).toBe(false);
  });

  it.each(["", "localhost", "8.8.8", "8.8.8.8.", "008.8.8.8", "2606:4700::1%eth0", "fe80::1%lo", "[::1]"])(
    "rule 66: %j is no address, or not everywhere the same, and not public",
    (text) => expect(isPublicAddress(text)).toBe(false),
  );
});

// --- URLs ---------------------------------------------------------------------------------------

/** Hosts that are, or look like, addresses or names of something internal. Names resolve to the canary. */
const HOSTS = [
  // All of them are 127.0.0.1 to the URL parser.
  ...[
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "017700000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "127.0.1",
    "0x7f.0x0.0x0.0x1",
  ],
  ...["①②⑦.0.0.1", "１２７.0.0.1", "127。0。0。1", "127%2e0%2e0%2e1", "%31%32%37.0.0.1", "127.0.0.1.", "0177.1."],
  // Other IPv4 addresses.
  ...["127.255.255.254", "0.0.0.0", "0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1"],
  ...["169.254.169.254", "0xa9fea9fe", "2852039166", "192.0.0.192", "192.0.2.1", "198.18.0.1", "198.51.100.7"],
  ...["203.0.113.9", "192.88.99.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"],
  // IPv6.
  ...[
    "[::1]",
    "[::]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::127.0.0.1]",
    "[::ffff:0:7f00:1]",
  ],
  ...["[64:ff9b::7f00:1]", "[64:ff9b::127.0.0.1]", "[64:ff9b:1::1]", "[2002:7f00:1::]", "[2001::1]", "[2001:db8::1]"],
  ...["[2001:20::1]", "[100::1]", "[3fff::1]", "[5f00::1]", "[fe80::1]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]"],
  ...["[ff02::1]", "[4000::1]"],
  // Names.
  ...["localhost", "LOCALHOST", "localhost.", "ｌocalhost", "a.localhost", "a.localhost.", "localhost.localdomain"],
  ...[
    "receiver",
    "receiver.",
    "printer.local",
    "metadata.google.internal",
    "metadata.google.internal.",
    "nas.home.arpa",
  ],
  ...["abcdefghijklmnop.onion", "kubernetes.default.svc.cluster.local", "hooks..example.com", "hooks.example.com.."],
];

describe("URLs", () => {
  it.each(HOSTS)("rule 66: https://%s is refused when it is registered, and by the sender itself", async (host) => {
    const url = `https://${host}:${bird.port}/hook`;
    const problem = urlProblem(url, nothing);
    expect(problem).toEqual(expect.any(String));
    expect(problem).not.toContain(host.toLowerCase());
    expect(urlProblem(`https://${host}/`, nothing)).toEqual(expect.any(String));
    expect(await send(url, { lookup: async () => ["127.0.0.1"] })).toEqual(forbidden);
    expect(bird.connections()).toBe(0);
  });

  it.each([
    [
      "http://hooks.example.com/",
      "must begin with https://, unless the operator of the service names its host in WEBHOOK_ALLOW",
    ],
    ["ftp://hooks.example.com/", "must begin with https://"],
    ["file:///etc/passwd", "must begin with https://"],
    ["gopher://hooks.example.com/", "must begin with https://"],
    ["data:text/plain,x", "must begin with https://"],
    ["javascript:alert(1)", "must begin with https://"],
    ["https://user@hooks.example.com/", "must not have a user or a password"],
    ["https://:secret@hooks.example.com/", "must not have a user or a password"],
    ["https://hooks.example.com@127.0.0.1/", "must not have a user or a password"],
    ["https://hooks.example.com/#a", "must not have a fragment"],
    ["https://hooks.example.com/#", "must not have a fragment"],
    ["https://hooks.example.com /", "must not have blanks or control characters"],
    ["https://hooks.exam\nple.com/", "must not have blanks or control characters"],
    [" https://hooks.example.com/", "must not have blanks or control characters"],
    ["https://hooks.example.com/\u0000", "must not have blanks or control characters"],
    ["hooks.example.com", "must be a URL, such as https://example.com/hook"],
    ["https://", "must be a URL, such as https://example.com/hook"],
    ["https://[::1", "must be a URL, such as https://example.com/hook"],
    ["https://hooks.example.com:99999/", "must be a URL, such as https://example.com/hook"],
    ["https://1.2.3.4.5/", "must be a URL, such as https://example.com/hook"],
    ["", "must be a URL, such as https://example.com/hook"],
    [`https://hooks.example.com/${"a".repeat(2023)}`, "must be at most 2048 characters"],
  ])("rule 66: %j %s, when it is registered and to the sender", async (url, problem) => {
    expect(urlProblem(url, nothing)).toBe(problem);
    expect(await send(url, { lookup: async () => ["127.0.0.1"] })).toEqual(forbidden);
  });

  it.each([21, 22, 23, 25, 80, 110, 444, 465, 587, 993, 1023, 2375, 3306, 5432, 6379, 6443, 9200, 11211, 27017])(
    "rule 66: port %i is refused, when it is registered and by the sender",
    async (port) => {
      const url = `https://hooks.example.com:${port}/`;
      expect(urlProblem(url, nothing)).toContain("must have port 443");
      expect(await send(url, { lookup: async () => ["127.0.0.1"] })).toEqual(forbidden);
    },
  );

  it.each([
    "https://hooks.example.com",
    "https://hooks.example.com./",
    "https://hooks.example.com:443/a?b=c",
    "https://hooks.example.com:1024/",
    "https://hooks.example.com:8443/",
    "https://bücher.example.com/",
    "https://localhost.example.com/",
    "https://internal.example.com/",
    "https://8.8.8.8/",
    "https://[2606:4700::1111]:8443/",
    `https://hooks.example.com/${"a".repeat(2022)}`,
  ])("rule 66: %s may be registered", (url) => expect(urlProblem(url, nothing)).toBeNull());
});

// --- What the operator allows -------------------------------------------------------------------

describe("what the operator allows", () => {
  it("rule 66: a host that is named may be reached by http, at any port, with any name; another may not", () => {
    const allow = parseAllowList(
      " Receiver , hooks.internal:8080,127.0.0.1:22, [::1]:25 ,, b\u00fccher.local., fd00::7",
    );
    for (const url of [
      "http://receiver/",
      "https://receiver:22/",
      "http://hooks.internal:8080/",
      "http://hooks.internal.:8080/",
      "http://0x7f.1:22/",
      "https://[0:0::1]:25/",
      "http://xn--bcher-kva.local:6379/",
      "http://[fd00:0::7]/",
    ])
      expect([url, urlProblem(url, allow)]).toEqual([url, null]);
    for (const url of [
      "http://hooks.internal/",
      "http://hooks.internal:80/",
      "http://a.receiver/",
      "http://127.0.0.1/",
      "https://127.0.0.1/",
      "http://[::1]/",
      "ftp://receiver/",
      "http://a@receiver/",
      "http://receiver/#a",
    ])
      expect([url, urlProblem(url, allow)]).toEqual([url, expect.any(String)]);
  });

  it("rule 66: port 80 can be named, and is not every port", () => {
    const allow = parseAllowList("receiver:80");
    expect(urlProblem("http://receiver/", allow)).toBeNull();
    expect(urlProblem("http://receiver:81/", allow)).toEqual(expect.any(String));
  });

  it("rule 66: a network covers addresses, and loosens nothing else", () => {
    const allow = parseAllowList("10.1.0.0/16, fd00:1::/32, 192.168.7.7");
    for (const address of ["10.1.0.0", "10.1.255.255", "fd00:1::9", "192.168.7.7"])
      expect(allow.covers(address)).toBe(true);
    for (const address of ["10.0.255.255", "10.2.0.0", "fd00:2::", "192.168.7.8", "::ffff:10.1.0.1"])
      expect(allow.covers(address)).toBe(false);
    expect(urlProblem("https://10.1.2.3/", allow)).toBeNull();
    expect(urlProblem("https://[fd00:1::9]:8443/", allow)).toBeNull();
    for (const url of ["http://10.1.2.3/", "https://10.1.2.3:22/", "https://10.2.0.0/"])
      expect([url, urlProblem(url, allow)]).toEqual([url, expect.any(String)]);
  });

  it.each([
    "10.0.0.0/33",
    "::/129",
    "10.0.0/8",
    "host/8",
    "a b",
    "http://host",
    "a@b",
    "host:port",
    "host:99999",
    "[::1",
    "a#b",
  ])("rule 66: an entry %j is refused by its number, without the entry", (entry) => {
    const parse = () => parseAllowList(`receiver,${entry}`);
    expect(parse).toThrow("entry 2 is neither a host, nor host:port, nor an IP network");
  });

  it("rule 66: a canary that is allowed is reached, so that the others can be", async () => {
    await using other = await canary();
    for (const [url, list] of [
      [`https://127.0.0.1:${other.port}/`, "127.0.0.0/8"],
      [`http://127.1:${other.port}/`, `127.0.0.1:${other.port}`],
      [`https://hooks.example.com:${other.port}/`, "127.0.0.0/8"],
      [`http://hooks.example.com:${other.port}/`, "hooks.example.com"],
    ] as const) {
      const before = other.connections();
      const options = { allow: parseAllowList(list), lookup: async () => ["127.0.0.1"], timeoutMs: 1_000 };
      expect(await send(url, options)).toMatchObject({ error: "TIMEOUT" });
      expect(other.connections()).toBe(before + 1);
    }
  });
});

// --- Names --------------------------------------------------------------------------------------

describe("names", () => {
  it.each([
    [["127.0.0.1"]],
    [["8.8.8.8", "127.0.0.1"]],
    [["127.0.0.1", "8.8.8.8"]],
    [["8.8.8.8", "::1"]],
    [["::1"]],
    [["::ffff:127.0.0.1"]],
    [["64:ff9b::7f00:1"]],
    [["fe80::1%lo"]],
    [["2130706433"]],
    [["localhost"]],
  ])("rule 66: a name that resolves to %j is refused before any connection", async (addresses) => {
    const url = `https://hooks.example.com:${bird.port}/`;
    expect(urlProblem(url, nothing)).toBeNull();
    expect(await send(url, { lookup: async () => addresses })).toEqual(forbidden);
    expect(bird.connections()).toBe(0);
  });

  it("rule 66: a name without an address, and a lookup that fails or hangs", async () => {
    const url = "https://hooks.example.com/";
    expect(await send(url, { lookup: async () => [] })).toMatchObject({ error: "DNS" });
    const refuses = () => Promise.reject(Object.assign(new Error("no"), { code: "ENOTFOUND" }));
    expect(await send(url, { lookup: refuses })).toMatchObject({ error: "DNS" });
    expect(await send(url, { lookup: () => new Promise(() => {}), timeoutMs: 50 })).toMatchObject({ error: "TIMEOUT" });
  });

  it("rule 66: a real name server: private, mixed and IPv6 answers, aliases of nothing", async () => {
    const zone: Record<string, string[]> = {
      "private.example.com": ["10.0.0.1"],
      "loopback.example.com": ["127.0.0.1"],
      "mixed.example.com": ["8.8.8.8", "127.0.0.1"],
      "both.example.com": ["8.8.8.8", "::1"],
      "six.example.com": ["::1"],
      "mapped.example.com": ["::ffff:127.0.0.1"],
    };
    await using server = await nameServer((name) => zone[name] ?? []);
    const lookup = createLookup(server.resolver);
    expect((await lookup("both.example.com", false)).sort()).toEqual(["8.8.8.8", "::1"]);
    for (const name of Object.keys(zone))
      expect([name, await send(`https://${name}:${bird.port}/`, { lookup })]).toEqual([name, forbidden]);
    expect(await send(`https://nobody.example.com:${bird.port}/`, { lookup })).toMatchObject({ error: "DNS" });
    expect(bird.connections()).toBe(0);
  });

  it("rule 66: a name that changes its answer between check and connection never leads to the canary", async () => {
    // 127.0.0.2 stands for a public address: it is allowed, and nothing listens there. A TTL of 0 invites another lookup.
    const allow = parseAllowList("127.0.0.2/32");
    let asked = 0;
    await using server = await nameServer(() => (asked++ < 2 ? ["127.0.0.2"] : ["127.0.0.1"]));
    const lookup = createLookup(server.resolver);
    const url = `https://rebind.example.com:${bird.port}/`;
    const first = await send(url, { allow, lookup, timeoutMs: 500 });
    // Once for each family.
    expect(asked).toBe(2);
    expect(first).toMatchObject({ error: expect.stringMatching(/^(CONNECTION_|TIMEOUT)/) });
    expect(await send(url, { allow, lookup })).toEqual(forbidden);
    expect(bird.connections()).toBe(0);
  });

  it("rule 66: the files of the machine count for names that the operator gave, and for no other", async () => {
    await using server = await nameServer(() => []);
    const lookup = createLookup(server.resolver);
    expect(await lookup("localhost", true)).toContain("127.0.0.1");
    expect(await lookup("localhost.", false)).toEqual([]);
  });
});

// --- Connections --------------------------------------------------------------------------------

describe("connections", () => {
  it("rule 66: a redirect to the canary is an answer, and not followed", async () => {
    for (const status of [301, 302, 303, 307, 308]) {
      await using receiver = await httpReceiver((_request, response) => {
        response.writeHead(status, { location: `http://127.0.0.1:${bird.port}/` }).end();
      });
      const allow = parseAllowList(`127.0.0.1:${receiver.port}, 127.0.0.1:${bird.port}`);
      expect(await send(`http://127.0.0.1:${receiver.port}/`, { allow })).toMatchObject({ status });
    }
    expect(bird.connections()).toBe(0);
  });

  /** One request, after all checks but that of the connection. */
  const request = (port: number, isAllowed: (address: string) => boolean, agent: Agent | false = false) =>
    post({
      url: new URL(`http://hooks.example.com:${port}/`),
      headers: {},
      body: "{}",
      addresses: ["127.0.0.1"],
      isAllowed,
      agent,
      signal: AbortSignal.timeout(3_000),
    });

  it("rule 66: a connection whose other end is not allowed gets not one byte", async () => {
    let bytes = 0;
    await using receiver = await socketReceiver((socket) => {
      socket.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
      });
    });
    await expect(request(receiver.port, isPublicAddress)).rejects.toMatchObject({ code: "ADDRESS_FORBIDDEN" });
    expect({ connections: receiver.connections(), bytes }).toEqual({ connections: 1, bytes: 0 });
  });

  it("rule 66: a connection that is used again is looked at again", async () => {
    let requests = 0;
    await using receiver = await httpReceiver((_request, response) => {
      requests++;
      response.end();
    });
    using agent = { own: new Agent({ keepAlive: true }), [Symbol.dispose]: () => agent.own.destroy() };
    const isLoopback = (address: string) => address === "127.0.0.1";
    for (let i = 0; i < 2; i++) expect(await request(receiver.port, isLoopback, agent.own)).toEqual({ status: 200 });
    const again = request(receiver.port, isPublicAddress, agent.own);
    await expect(again).rejects.toMatchObject({ code: "ADDRESS_FORBIDDEN" });
    expect({ connections: receiver.connections(), requests }).toEqual({ connections: 1, requests: 2 });
  });

  it("rule 66: no environment sets a proxy", async () => {
    await using receiver = await httpReceiver((_request, response) => void response.writeHead(204).end());
    await using proxy = await socketReceiver((socket) => socket.destroy());
    const script = `
      import { createSender } from "./src/webhooks/send.ts";
      import { parseAllowList } from "./src/webhooks/url.ts";
      await using sender = createSender({ allow: parseAllowList("127.0.0.1") });
      const result = await sender.send({ url: process.argv[1], headers: {}, body: "{}" });
      console.log(JSON.stringify(result));`;
    const through = `http://127.0.0.1:${proxy.port}`;
    const proxies = Object.fromEntries(
      ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"].map((name) => [name, through]),
    );
    const { stdout } = await promisify(execFile)(
      process.execPath,
      ["--input-type=module", "--eval", script, `http://127.0.0.1:${receiver.port}/`],
      {
        cwd: fileURLToPath(new URL("..", import.meta.url)),
        env: { PATH: process.env.PATH, NODE_USE_ENV_PROXY: "1", ...proxies },
      },
    );
    expect(JSON.parse(stdout)).toMatchObject({ status: 204 });
    expect(proxy.connections()).toBe(0);
  });
});
