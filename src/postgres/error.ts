// The one error of the embedded PostgreSQL.

/** Why the server did not start and what to do about it; holds no personal data. */
export class EmbeddedPostgresError extends Error {
  override readonly name = "EmbeddedPostgresError";
}
