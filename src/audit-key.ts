// Rule 131: where the key is that signs checkpoints: in the file of AUDIT_SIGNING_KEY, or with the embedded server in DATA_DIR.
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { newSigningKey, publicKeyToPem, readSigningKey, type SigningKey } from "./audit/signing-key.ts";
import { type Config, ConfigError } from "./config.ts";
import { writeSecretFile } from "./secret-file.ts";

/** Undefined: there is none. */
const signingKeyFile = ({ auditSigningKey, databaseUrl, dataDir }: Config): string | undefined =>
  auditSigningKey ?? (databaseUrl === undefined ? join(dataDir, "audit-key") : undefined);

/** With the embedded server the first start makes the key. One that is there is never replaced. */
export async function makeSigningKey(config: Config): Promise<void> {
  const file = signingKeyFile(config);
  if (file === undefined || config.auditSigningKey !== undefined || existsSync(file)) return;
  try {
    await writeSecretFile(file, newSigningKey(), new Date());
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? "it failed";
    throw new ConfigError(
      `the key that signs checkpoints cannot be written to ${file} (${code}): set AUDIT_SIGNING_KEY to a key of your own, or DATA_DIR to a folder that can be written`,
      { cause },
    );
  }
}

/** The key that signs checkpoints, if there is one. Throws ConfigError where it cannot be read. */
export async function signingKey(config: Config): Promise<SigningKey | undefined> {
  const file = signingKeyFile(config);
  if (file === undefined || (config.auditSigningKey === undefined && !existsSync(file))) return undefined;
  const cure = "an Ed25519 key as 'openssl genpkey -algorithm ed25519 -out FILE' makes it";
  const name = config.auditSigningKey === undefined ? file : "AUDIT_SIGNING_KEY";
  const pem = await readFile(file, "utf8").catch((cause: NodeJS.ErrnoException) => {
    throw new ConfigError(`${name} cannot be read (${cause.code ?? "it failed"}): it must be the path of ${cure}`, {
      cause,
    });
  });
  const key = readSigningKey(pem);
  if (key === undefined)
    throw new ConfigError(`${name} is not a private key of Ed25519 without a password: it must be ${cure}`);
  return key;
}

/** Its public half as PEM. Throws ConfigError where there is none. */
export async function publicSigningKey(config: Config): Promise<string> {
  const key = await signingKey(config);
  if (key === undefined) {
    throw new ConfigError("there is no key that signs checkpoints: set AUDIT_SIGNING_KEY as for the service");
  }
  return publicKeyToPem(key.publicKey);
}

/** Throws ConfigError where the key cannot be read; one that is not there is a warning. */
export async function warnIfUnsigned(config: Config, log: { warn(message: string): void }): Promise<void> {
  if ((await signingKey(config)) === undefined) {
    log.warn("checkpoints of the audit log are not signed: set AUDIT_SIGNING_KEY to a key, the same for all processes");
  }
}
