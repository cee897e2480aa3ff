// Which addresses a webhook may go to: those of the public internet. The tables are the IANA registries of special
// purposes, whole: rows that count as globally reachable too, since those are relays and anycast addresses, which
// may be answered by something near; and what only translates to IPv4, since that address may be any.
import { BlockList, isIPv4, isIPv6 } from "node:net";

/** Prefix and the document that set it apart. */
type Row = readonly [prefix: string, rfc: string];

const IPV4: readonly Row[] = [
  ["0.0.0.0/8", "RFC 791: this network; 0.0.0.0 is this host"],
  ["10.0.0.0/8", "RFC 1918: private"],
  ["100.64.0.0/10", "RFC 6598: shared, behind a carrier's NAT"],
  ["127.0.0.0/8", "RFC 1122: loopback"],
  ["169.254.0.0/16", "RFC 3927: link-local; clouds answer for their metadata there"],
  ["172.16.0.0/12", "RFC 1918: private"],
  ["192.0.0.0/24", "RFC 6890: protocol assignments (RFC 7335, 7600, 7723, 8155, 8880 within)"],
  ["192.0.2.0/24", "RFC 5737: documentation"],
  ["192.31.196.0/24", "RFC 7535: AS112, anycast"],
  ["192.52.193.0/24", "RFC 7450: AMT relays, anycast"],
  ["192.88.99.0/24", "RFC 7526: 6to4 relays, deprecated"],
  ["192.168.0.0/16", "RFC 1918: private"],
  ["192.175.48.0/24", "RFC 7534: AS112, anycast"],
  ["198.18.0.0/15", "RFC 2544: benchmarks"],
  ["198.51.100.0/24", "RFC 5737: documentation"],
  ["203.0.113.0/24", "RFC 5737: documentation"],
  ["224.0.0.0/4", "RFC 5771: multicast"],
  ["240.0.0.0/4", "RFC 1112: reserved; RFC 919: broadcast"],
];

const IPV6: readonly Row[] = [
  // Global unicast is 2000::/3. All else is special or not assigned:
  ["::/3", "RFC 4291: ::, ::1, IPv4-compatible and IPv4-mapped; RFC 6052 and 8215: NAT64; RFC 6666: discard; RFC 9780"],
  ["4000::/2", "RFC 4291: not assigned; RFC 9602: segment routing, 5f00::/16"],
  [
    "8000::/1",
    "RFC 4291: link-local and multicast; RFC 4193: unique local; RFC 3879: site-local; the rest not assigned",
  ],
  // And in it:
  [
    "2001::/23",
    "RFC 2928: protocol assignments (Teredo of RFC 4380 and RFC 4843, 5180, 7343, 7450, 7535, 9374 within)",
  ],
  ["2001:db8::/32", "RFC 3849: documentation"],
  ["2002::/16", "RFC 3056: 6to4"],
  ["2620:4f:8000::/48", "RFC 7534: AS112, anycast"],
  ["3ffe::/16", "RFC 3701: 6bone, given back"],
  ["3fff::/20", "RFC 9637: documentation"],
];

/** One list for each family: a list of both would compare IPv4 addresses with the IPv6 prefixes of their mapped form. */
const special = { ipv4: listOf(IPV4, "ipv4"), ipv6: listOf(IPV6, "ipv6") };

function listOf(rows: readonly Row[], family: "ipv4" | "ipv6"): BlockList {
  const list = new BlockList();
  for (const [prefix] of rows) {
    const [address = "", length] = prefix.split("/");
    list.addSubnet(address, Number(length), family);
  }
  return list;
}

/** Whether an address is one of the public internet. What is no address, or has a zone, is not. */
export function isPublicAddress(address: string): boolean {
  if (isIPv4(address)) return !special.ipv4.check(address, "ipv4");
  return isIPv6(address) && !address.includes("%") && !special.ipv6.check(address, "ipv6");
}
