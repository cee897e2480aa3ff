// The PEM files of TLS. Certificates are renewed under a running service: the files are read again from time to time,
// and when somebody asks. What cannot be used is logged, and what was in use stays so.
import { X509Certificate } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createSecureContext } from "node:tls";
import type { Logger } from "pino";
import type { Config } from "../config.ts";

/** Contents of PEM files. With clientCa, only callers with a certificate of that authority are let in. */
export interface Tls {
  cert: string;
  key: string;
  clientCa: string | undefined;
}

/** Rejects where a file cannot be read, or they do not go together. */
export async function readTls(files: NonNullable<Config["tls"]>): Promise<Tls> {
  const [cert, key, clientCa] = await Promise.all(
    [files.cert, files.key, files.clientCa].map((path) => path && readFile(path, "utf8")),
  );
  const tls = { cert: cert ?? "", key: key ?? "", clientCa };
  createSecureContext({ cert, key, ca: clientCa });
  return tls;
}

export interface TlsWatch extends Disposable {
  /** Reads the files now. */
  check(): Promise<void>;
}

/** Looks for other files than those that `used` came from, and hands them to `use`. */
export function watchTls(
  files: NonNullable<Config["tls"]>,
  used: Tls,
  { everyMs, use, log }: { everyMs: number; use: (tls: Tls) => void; log: Logger },
): TlsWatch {
  let current = used;
  /** What was wrong when it was last looked: said once. */
  let problem = "";
  const check = async () => {
    try {
      const tls = await readTls(files);
      problem = "";
      if (tls.cert === current.cert && tls.key === current.key && tls.clientCa === current.clientCa) return;
      use(tls);
      current = tls;
      const { validTo, fingerprint256 } = new X509Certificate(tls.cert);
      log.info({ validTo, fingerprint256 }, "TLS files read again: new connections get this certificate");
    } catch (error) {
      const { code = "UNKNOWN" } = error as NodeJS.ErrnoException;
      if (code === problem) return;
      problem = code;
      log.error({ code }, "TLS files cannot be used: the certificate before stays in use");
    }
  };
  const timer = setInterval(check, everyMs).unref();
  return { check, [Symbol.dispose]: () => clearInterval(timer) };
}
