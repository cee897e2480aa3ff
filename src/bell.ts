// Rung by the code that commits events, heard by the code that passes them on: the bell is made first and neither side
// knows the other, so that none is forgotten. It only spares the wait for the next poll, which finds missed events too.
export interface Bell {
  /** After a commit of this process: there may be new events, or deliveries, of the organization. */
  ring(organizationId: string): void;
  hear(listener: (organizationId: string) => void): void;
}

export function createBell(): Bell {
  const listeners: ((organizationId: string) => void)[] = [];
  return {
    ring(organizationId) {
      for (const listener of listeners) listener(organizationId);
    },
    hear: (listener) => void listeners.push(listener),
  };
}
