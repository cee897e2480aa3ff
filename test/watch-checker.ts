// What must hold for a watcher (the guarantees of etcd's watch): checks what it received against the log.

export interface Seen {
  id: string;
  entityId: string;
  version: number;
}

/** What is wrong with what a watcher received over consecutive streams from the beginning of `log`; at most a few of each kind. */
export function watchProblems(streams: readonly (readonly Seen[])[], log: readonly Seen[]): string[] {
  const problems: string[] = [];
  const known = new Map(log.map((event) => [event.id, event]));
  const begin = new Map<string, number>();
  for (const { entityId, version } of log) begin.set(entityId, Math.min(begin.get(entityId) ?? version, version));

  const all = new Set<string>();
  /** The next version, over all streams. */
  const next = new Map(begin);
  streams.forEach((stream, number) => {
    const own = new Set<string>();
    const last = new Map<string, number>();
    for (const { id, entityId, version } of stream) {
      const at = `stream ${number}: ${entityId} version ${version}`;
      const event = known.get(id);
      if (event === undefined) problems.push(`invented ${at}`);
      else if (event.entityId !== entityId || event.version !== version) problems.push(`changed ${at}`);
      if (own.has(id)) problems.push(`twice ${at}`);
      own.add(id);
      const before = last.get(entityId);
      if (before !== undefined && version !== before + 1) problems.push(`out of order ${at}, after ${before}`);
      last.set(entityId, version);
      // A watcher that stopped anywhere has no gap: a new version is the next one.
      if (!all.has(id) && version !== next.get(entityId)) problems.push(`skipped before ${at}`);
      all.add(id);
      next.set(entityId, Math.max(next.get(entityId) ?? 0, version + 1));
    }
  });
  for (const { id, entityId, version } of log) if (!all.has(id)) problems.push(`lost: ${entityId} version ${version}`);
  const kinds = new Map<string, number>();
  return problems.filter((problem) => {
    const kind = problem.split(/[: ]/, 1)[0] ?? "";
    kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    return (kinds.get(kind) ?? 0) <= 3;
  });
}
