// What is wrong with the URL of an endpoint, and the operator's list of exceptions. The URL is always looked at as
// the WHATWG parser reads it, which is what connects later: it makes 127.0.0.1 of 2130706433, 0x7f.1 and ①②⑦.0.0.1.
import { BlockList, isIP, isIPv4 } from "node:net";
import { isPublicAddress } from "./addresses.ts";

const MAX_LENGTH = 2048;

/** Names that are never, or not everywhere, those of the public internet (RFC 6761, 6762, 7686, 8375; .internal of ICANN). */
const SPECIAL_SUFFIXES = ["localhost", "localdomain", "local", "internal", "home.arpa", "onion"];

/**
 * Ports from 1024 on where databases, queues and the like listen. They speak no TLS, or other words in it; what is
 * wrapped in a handshake must not reach them either.
 */
const SERVICE_PORTS = new Set([
  ...[1433, 1521, 2049, 2181, 2375, 2376, 2379, 2380, 3306, 3389, 4222, 5432, 5672, 5900, 5984, 6000, 6379, 6443],
  ...[6667, 8086, 9042, 9092, 9200, 9300, 10250, 11211, 27017],
]);

/** What the operator allows although it is not public. */
export interface AllowList {
  /** Whether an entry names this host (a name, or an address) with this port: it may be reached by http, and anywhere. */
  names(host: string, port: number): boolean;
  /** Whether an entry covers this address. */
  covers(address: string): boolean;
}

/**
 * Reads the operator's list: entries `host`, `host:port` or CIDR (`10.1.0.0/16`), separated by commas. An address
 * alone is both a host and a network of one. Throws an Error that tells the number of the first entry that is none.
 */
export function parseAllowList(text: string): AllowList {
  const hosts = new Set<string>();
  const networks = { ipv4: new BlockList(), ipv6: new BlockList() };
  const entries = text.split(",").map((entry) => entry.trim());
  for (const [index, entry] of entries.entries()) {
    if (entry === "" || addNetwork(entry, networks)) continue;
    // An IPv6 address is a host with and without its brackets.
    const host = isIP(entry) === 6 ? `[${entry}]` : entry;
    const url = /^[^/\\?#@\s]+$/.test(host) && URL.canParse(`http://${host}`) ? new URL(`http://${host}`) : undefined;
    if (url === undefined) throw new Error(`entry ${index + 1} is neither a host, nor host:port, nor an IP network`);
    // The port as it stands there: the parser leaves 80 out.
    const port = /:(\d+)$/.exec(host.replace(/^\[.*\]/, ""))?.[1];
    const name = hostOf(url);
    hosts.add(port === undefined ? name : `${name} ${Number(port)}`);
    if (port === undefined && isIP(name) !== 0) addNetwork(`${name}/${isIPv4(name) ? 32 : 128}`, networks);
  }
  return {
    names: (host, port) => hosts.has(host) || hosts.has(`${host} ${port}`),
    covers: (address) =>
      isIPv4(address) ? networks.ipv4.check(address, "ipv4") : networks.ipv6.check(address, "ipv6"),
  };
}

function addNetwork(entry: string, networks: { ipv4: BlockList; ipv6: BlockList }): boolean {
  const [, address = "", digits] = /^([\d.]+|[\da-f:.]+)\/(\d{1,3})$/i.exec(entry) ?? [];
  const family = isIPv4(address) ? "ipv4" : "ipv6";
  const length = Number(digits);
  if (isIP(address) === 0 || length > (family === "ipv4" ? 32 : 128)) return false;
  networks[family].addSubnet(address, length, family);
  return true;
}

/** The host without the brackets of an IPv6 address and without the dot that ends a full name. */
export function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, "$1").replace(/\.$/, "");
}

/** The port, also where it is the scheme's own. */
export function portOf(url: URL): number {
  return url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port);
}

/** What is wrong with the URL of an endpoint, or null. Holds nothing of the URL. What its name resolves to, the sender checks. */
export function urlProblem(text: string, allow: AllowList): string | null {
  if (text.length > MAX_LENGTH) return `must be at most ${MAX_LENGTH} characters`;
  // The parser drops tabs and line ends, and trims blanks.
  if (/[\s\p{Cc}]/u.test(text)) return "must not have blanks or control characters";
  if (!URL.canParse(text)) return "must be a URL, such as https://example.com/hook";
  const url = new URL(text);
  const [host, port] = [hostOf(url), portOf(url)];
  const isNamed = allow.names(host, port);
  if (url.protocol !== "https:" && !(url.protocol === "http:" && isNamed)) {
    return url.protocol === "http:"
      ? "must begin with https://, unless the operator of the service names its host in WEBHOOK_ALLOW"
      : "must begin with https://";
  }
  if (url.username !== "" || url.password !== "") return "must not have a user or a password";
  if (url.href.includes("#")) return "must not have a fragment";
  if (isNamed) return null;
  if ((port < 1024 && port !== 443) || SERVICE_PORTS.has(port))
    return "must have port 443, or one from 1024 on that no well-known service uses";
  if (isIP(host) !== 0)
    return isAllowedAddress(host, allow)
      ? null
      : "must not be an address that is not public, unless the operator of the service names it in WEBHOOK_ALLOW";
  const labels = host.split(".");
  if (labels.length < 2 || labels.includes("")) return "must have a full domain name";
  if (SPECIAL_SUFFIXES.some((suffix) => host.endsWith(`.${suffix}`))) return "must have a public domain name";
  return null;
}

/** Whether a connection may go to an address, whatever name led to it. */
export function isAllowedAddress(address: string, allow: AllowList): boolean {
  return isPublicAddress(address) || allow.covers(address);
}
