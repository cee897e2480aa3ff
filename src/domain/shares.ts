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
  /** Places that are held, by all. */
  used(): number;
}

/** `total` places; an owner may always have `least` of them while any is free. */
export function createShares(total: number, least = 1): Shares {
  const organizations = new Map<string | object, number>();
  const parts = new Map<string, number>();
  let used = 0;
  const partOf = ({ organization, part }: Owner) => (part === undefined ? undefined : `${organization} ${part}`);
  const add = <K>(counts: Map<K, number>, key: K, size: number) => {
    const count = (counts.get(key) ?? 0) + size;
    if (count > 0) counts.set(key, count);
    else counts.delete(key);
  };
  const change = (owner: Owner, size: number) => {
    const part = partOf(owner);
    used += size;
    add(organizations, owner.organization, size);
    if (part !== undefined) add(parts, part, size);
  };
  return {
    take(owner, size = 1) {
      const part = partOf(owner);
      const byOrganization = organizations.get(owner.organization) ?? 0;
      const byPart = part === undefined ? undefined : (parts.get(part) ?? 0);
      if (!hasShare({ total, used, byOrganization, byPart, least })) return false;
      change(owner, size);
      return true;
    },
    give: (owner, size = 1) => change(owner, -size),
    used: () => used,
  };
}
