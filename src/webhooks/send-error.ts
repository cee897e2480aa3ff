// Why there was no answer: a small set of words, which are shown to customers. They reveal nothing of the network but
// the kind of failure, and never a text of the receiver.

export type SendError =
  /** The URL, or an address of its name, is none that the service may call. */
  | "ADDRESS_FORBIDDEN"
  /** The name has no address, or no name server answered. */
  | "DNS"
  | "CONNECTION_REFUSED"
  | "CONNECTION_RESET"
  /** No way to the address, or another failure of the connection. */
  | "CONNECTION_FAILED"
  /** No agreement on TLS, or a certificate that does not hold. */
  | "TLS"
  /** The time for all of it was over before there was an answer. */
  | "TIMEOUT"
  /** What came is no HTTP, or its headers are too large. */
  | "BAD_RESPONSE"
  /** The caller ended it, or the sender was disposed of. */
  | "ABORTED";

/** A failure that the sender itself finds. */
export class SendFailure extends Error {
  override readonly name = "SendFailure";
  readonly code: SendError;

  constructor(code: SendError, options?: ErrorOptions) {
    super(code, options);
    this.code = code;
  }
}

/** The word for an error of DNS, TCP, TLS or HTTP. */
export function errorCode(error: unknown): SendError {
  if (error instanceof SendFailure) return error.code;
  const { name, code } = error instanceof Error ? (error as NodeJS.ErrnoException) : {};
  if (name === "AbortError") return "ABORTED";
  if (code === undefined) return "CONNECTION_FAILED";
  if (code === "ECONNREFUSED") return "CONNECTION_REFUSED";
  if (code === "ECONNRESET" || code === "EPIPE") return "CONNECTION_RESET";
  if (code === "ETIMEDOUT") return "TIMEOUT";
  if (/^(ENOTFOUND|ENODATA|EAI_|ESERVFAIL|ETIMEOUT)/.test(code)) return "DNS";
  if (/^HPE_|^ERR_HTTP_/.test(code)) return "BAD_RESPONSE";
  // OpenSSL's words for certificates have no common beginning.
  if (/^(ERR_TLS_|ERR_SSL_|EPROTO$)|CERT|SIGNATURE|ISSUER|CRL|CA$/.test(code)) return "TLS";
  return "CONNECTION_FAILED";
}
