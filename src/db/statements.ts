// Where statements run: the port that db/ gives to every room whose statements are written by hand.

/** Where statements run: an entity manager, or a pipelined transaction. */
export interface Statements {
  execute<T>(text: string, values: readonly unknown[]): Promise<T>;
}

/** A transaction whose statements are sent at once. */
export interface Pipeline extends Statements {
  /** Sends a statement whose answer is not needed: if it fails, the transaction does. */
  send(text: string, values: readonly unknown[]): void;
}
