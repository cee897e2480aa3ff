// The pages that the service keeps in memory, and how a browser is told to treat them: nothing from elsewhere, nothing
// inline, no frame around them, and no second look at what never changes.
import { createHash } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http2";
import type { Page } from "../transport/pages.ts";

/** A file as it is kept, with its compressed form. */
export interface KeptFile {
  type: string;
  body: Buffer;
  gzipped?: Buffer | undefined;
  /** Its name changes with its content. */
  isImmutable?: boolean;
  status?: number;
  /** Sent beside the others. */
  headers?: Record<string, string>;
}

/** Trusted Types: no string becomes HTML or a script, whatever the code of the page does. */
const POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "img-src 'self'",
  "connect-src 'self'",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join("; ");

const FOR_EVER = "public, max-age=31536000, immutable";

const HEADERS = {
  "content-security-policy": POLICY,
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
};

/** The function that answers with a file, made once: what is sent is the same for everybody. */
export function answerOf(file: KeptFile): (headers: IncomingHttpHeaders) => Page {
  const { status = 200, body, gzipped } = file;
  const etag = `"${createHash("sha256").update(body).digest("base64url").slice(0, 22)}"`;
  const headers = {
    ...HEADERS,
    "content-type": file.type,
    "cache-control": status !== 200 ? "no-store" : file.isImmutable ? FOR_EVER : "no-cache",
    vary: "accept-encoding",
    ...(status === 200 && { etag }),
    ...file.headers,
  };
  const plain: Page = { status, headers, body };
  const compressed = gzipped && { status, headers: { ...headers, "content-encoding": "gzip" }, body: gzipped };
  const unchanged: Page = { status: 304, headers, body: Buffer.alloc(0) };
  return (request) => {
    if (status === 200 && names(request["if-none-match"], etag)) return unchanged;
    return compressed !== undefined && /\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))/i.test(request["accept-encoding"] ?? "")
      ? compressed
      : plain;
  };
}

/** Whether the header If-None-Match names the tag; a proxy may have made it a weak one. */
function names(header: string | undefined, etag: string): boolean {
  return header !== undefined && header.length < 1_000 && (header.trim() === "*" || header.includes(etag));
}
