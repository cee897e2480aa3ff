// Where a database is, and a URL of one as libpq reads it.

/** Where a database is: a URL, or a socket folder with the rest. */
export type DatabaseAddress =
  | { url: string }
  | { host: string; port: number; user: string; database: string; password?: string };

/** What pg needs to connect there. */
export function clientConfig(
  address: DatabaseAddress,
): { connectionString: string } | Exclude<DatabaseAddress, { url: string }> {
  return "url" in address ? { connectionString: asLibpq(address.url) } : address;
}

/**
 * pg reads `sslmode` differently from libpq, which every other tool follows for the same URL, and it says so on
 * standard error at every start.
 */
function asLibpq(text: string): string {
  const url = new URL(text);
  const { searchParams } = url;
  if (!searchParams.has("sslmode")) return text;
  searchParams.set("uselibpqcompat", "true");
  // The authorities that Node brings along.
  if (searchParams.get("sslrootcert") === "system") searchParams.delete("sslrootcert");
  return url.toString();
}

/** The user of a URL, if it names one. */
export function userOf(address: DatabaseAddress): string | undefined {
  if (!("url" in address)) return address.user;
  const user = decodeURIComponent(new URL(address.url).username);
  return user === "" ? undefined : user;
}

/** For errors: host, port and database, without user and password. */
export function placeOf(address: DatabaseAddress): string {
  if (!("url" in address)) return `${address.host}:${address.port}/${address.database}`;
  const { host, pathname, searchParams } = new URL(address.url);
  return `${searchParams.get("host") ?? (host || "the local socket")}${pathname}`;
}
