// How places are divided among those who want them. Nobody is given a fixed part: an owner may hold as many places as
// are free. A single owner gets half of them, two a third each, n one part in n + 1 each, and a newcomer finds the same
// part free, at once. (Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998.)

/** The owner of a place: an organization, or another source of many requests; and a part of it, such as a key. */
export interface Owner {
  readonly organization: string | object;
  readonly part?: string | undefined;
}

/** The counts at the moment at which one more place is asked for. */
interface Held {
  total: number;
  used: number;
  byOrganization: number;
  /** Undefined: the organization is one whole. */
  byPart: number | undefined;
  /** An owner may always hold this many while a place is free: small totals are not divided. */
  least: number;
}

/** A part of an organization may hold three times what it leaves to the other parts: alone, six sevenths of the share. */
const PART = 3;

/** Whether the owner may have one more. */
export function hasShare({ total, used, byOrganization, byPart, least }: Held): boolean {
  if (used >= total) return false;
  const left = Math.max(total - used, least) - byOrganization;
  return left > 0 && (byPart === undefined || byPart < Math.max(PART * left, least));
}

/** Counts what is held. Whatever is taken is given back once, by the same owner. */
export interface Shares {
  /** Takes `size` places and returns true, or none and returns false. A single request may exceed its share. */
  take(owner: Owner, size?: number): boolean;
  give(owner: Owner, size?: number): void;
  /** Places that are held, by all or by one organization. */
  used(organization?: string): number;
}

/** The places of an organization. */
interface Count {
  size: number;
  parts: Map<string, number>;
}

/** Names that are remembered although they hold nothing: whoever sends one call after the other would be added and removed with each. */
const REMEMBERED = 64;

/** `total` places; an owner may always have `least` of them while any is free. */
export function createShares(total: number, least = 1): Shares {
  const counts = new Map<string | object, Count>();
  let used = 0;
  const change = ({ organization, part }: Owner, count: Count, size: number) => {
    used += size;
    count.size += size;
    if (part !== undefined) {
      const byPart = (count.parts.get(part) ?? 0) + size;
      if (byPart > 0 || count.parts.size <= REMEMBERED) count.parts.set(part, byPart);
      else count.parts.delete(part);
    }
    // An object, such as a connection, would stay in memory.
    if (count.size === 0 && (counts.size > REMEMBERED || typeof organization === "object")) counts.delete(organization);
  };
  return {
    take(owner, size = 1) {
      const known = counts.get(owner.organization);
      const byOrganization = known?.size ?? 0;
      const byPart = owner.part === undefined ? undefined : (known?.parts.get(owner.part) ?? 0);
      if (!hasShare({ total, used, byOrganization, byPart, least })) return false;
      const count = known ?? { size: 0, parts: new Map() };
      if (known === undefined) counts.set(owner.organization, count);
      change(owner, count, size);
      return true;
    },
    give(owner, size = 1) {
      const count = counts.get(owner.organization);
      if (count !== undefined) change(owner, count, -size);
    },
    used: (organization) => (organization === undefined ? used : (counts.get(organization)?.size ?? 0)),
  };
}
