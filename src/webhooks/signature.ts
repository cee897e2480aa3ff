// Signatures of Standard Webhooks (version v1, symmetric): receivers verify them with a library of their language.
import { createHmac, randomBytes } from "node:crypto";

const PREFIX = "whsec_";

/** A new secret of an endpoint: `whsec_` and 32 random bytes as base64. */
export function newSigningSecret(): string {
  return PREFIX + randomBytes(32).toString("base64");
}

/**
 * The value of the header webhook-signature: one signature of each secret, so that a receiver verifies with the old
 * one or the new one while a secret is rotated. `id` is that of the delivery, the same in every attempt; `timestamp`
 * is the attempt's, in seconds, as in the header webhook-timestamp.
 */
export function sign(secrets: readonly string[], id: string, timestamp: number, body: string): string {
  return secrets
    .map((secret) => {
      const key = Buffer.from(secret.slice(PREFIX.length), "base64");
      return `v1,${createHmac("sha256", key).update(`${id}.${timestamp}.${body}`).digest("base64")}`;
    })
    .join(" ");
}
